// Shows what the server tells, and says when it tells nothing any more.
//
// Whatever comes from a peer (a caller's name, a role) is written as text,
// never as markup: there is no innerHTML here.
"use strict";

// Samples that the charts show: as many as the server keeps.
const KEPT = 300;
// Without an event for so long, what is shown is old, whatever the browser
// thinks of the connection. The server tells something each second, or as
// seldom as twenty times as long as a look at all its shards takes.
const STALE_MILLIS = 5000;

const at = (id) => document.getElementById(id);
// Which replica is shown, as the page's address has it. Empty: all.
const wanted = new URLSearchParams(location.search).get("replica") ?? "";
let samples = [];
let heardAt = null;
let serverTime = null;

function element(name, text, ...classes) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  made.classList.add(...classes);
  return made;
}

// 0.0042 -> "4.2 ms"
function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

// The server's histogram ends at 10 s; clocks that differ look like that too.
function latency(seconds) {
  return seconds >= 10 ? "10 s or more" : duration(seconds);
}

function number(n) {
  if (n === null || n === undefined) return "–";
  return n.toLocaleString("en-US", { maximumFractionDigits: n < 10 && n % 1 ? 1 : 0 });
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? n : n.toFixed(1)} ${units[unit]}`;
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString();
}

function show(status) {
  const server = status.server;
  const badge = at("state");
  badge.textContent = server.state;
  badge.className = `badge ${server.state === "serving" ? "good" : "bad"}`;
  at("server").textContent =
    `Version ${server.version}, instance ${server.instance_id}, ${server.listen_address}, ` +
    `running for ${duration(status.at - server.started_at)}`;
  showFindings(status.findings);
  showNumbers(status);
  showCharts(server);
  showReplicas(status);
  showGroups(status);
  showSessions(status);
  showShards(status);
}

function showFindings(findings) {
  const rows = findings.map((finding) => {
    const row = element("div", undefined, "finding", finding.level);
    const of = finding.replica === "" ? "" : `${finding.replica}: `;
    row.append(element("p", of + finding.what), element("p", finding.remedy));
    return row;
  });
  if (rows.length === 0) {
    const row = element("div", undefined, "finding");
    row.append(element("p", "Nothing: all is well.", "good"));
    rows.push(row);
  }
  at("findings").replaceChildren(...rows);
}

function showNumbers(status) {
  const now = samples.at(-1) ?? {};
  const total = (name) => samples.slice(-60).reduce((sum, sample) => sum + sample[name], 0);
  const server = status.server;
  const pairs = [
    ["Sessions", number(server.sessions)],
    ["Subscriptions", number(server.subscriptions)],
    ["Shards", number(server.shards)],
    ["Published a second", number(now.publishes_per_second)],
    ["Delivered a second", number(now.deliveries_per_second)],
    ["Latency, half within", latency(now.latency_p50_seconds)],
    ["99 in 100 within", latency(now.latency_p99_seconds)],
    ["Logs", `${bytes(server.log_bytes)} of ${bytes(server.log_bytes_limit)}`],
    ["Gaps, last minute", number(total("gaps"))],
    ["Held back, last minute", number(total("held_back"))],
    ["Missed, last minute", number(total("diffs_missed"))],
    ["Rejected, last minute", number(total("rejected"))],
  ];
  const boxes = pairs.map(([name, value]) => {
    const box = element("div");
    box.append(element("dt", name), element("dd", value));
    return box;
  });
  at("numbers").replaceChildren(...boxes);
}

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 100;

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// A line through the values, newest at the right end; a hole where there is none.
function path(values, place, kind) {
  let d = "";
  let pen = "M";
  const left = WIDTH - ((values.length - 1) * WIDTH) / (KEPT - 1);
  values.forEach((value, i) => {
    if (value === null || value === undefined) {
      pen = "M";
      return;
    }
    const x = left + (i * WIDTH) / (KEPT - 1);
    d += `${pen}${x.toFixed(1)} ${place(value).toFixed(1)}`;
    pen = "L";
  });
  return shape("path", { d, class: kind });
}

// lines: [[values, class], ...]; guides: values at which a line is drawn.
function chart(title, say, lines, { log = false, top = 0, guides = [] } = {}) {
  const present = lines.flatMap(([values]) => values).filter((v) => v !== null && v !== undefined);
  const most = Math.max(top, ...present, log ? 1e-3 : 1);
  const least = log ? 1e-5 : 0;
  const place = log
    ? (v) => HEIGHT - 4 - ((Math.log(Math.max(v, least)) - Math.log(least)) / (Math.log(most) - Math.log(least))) * (HEIGHT - 8)
    : (v) => HEIGHT - 4 - (v / most) * (HEIGHT - 8);
  const drawing = shape("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": `${title}: ${say}`,
  });
  for (const guide of guides.filter((g) => g <= most)) {
    drawing.append(shape("line", { x1: 0, x2: WIDTH, y1: place(guide), y2: place(guide) }));
  }
  drawing.append(...lines.map(([values, kind]) => path(values, place, kind)));
  const figure = element("figure");
  const caption = element("figcaption");
  caption.append(element("span", title), element("output", say));
  figure.append(caption, drawing);
  return figure;
}

function showCharts(server) {
  const of = (name) => samples.map((sample) => sample[name]);
  const last = (name) => (samples.at(-1) ?? {})[name];
  const most = (name) => samples.reduce((most, s) => Math.max(most, s[name]), 0);
  at("charts").replaceChildren(
    chart("Published a second", `${number(last("publishes_per_second"))}, at most ${number(most("publishes_per_second"))}`, [
      [of("publishes_per_second"), "first"],
    ]),
    chart("Delivered a second", `${number(last("deliveries_per_second"))}, at most ${number(most("deliveries_per_second"))}`, [
      [of("deliveries_per_second"), "first"],
    ]),
    chart(
      "Stamp to socket: half, 99 in 100; lines at 1 and 100 ms",
      `${latency(last("latency_p50_seconds"))}, ${latency(last("latency_p99_seconds"))}`,
      [
        [of("latency_p50_seconds"), "first"],
        [of("latency_p99_seconds"), "second"],
      ],
      { log: true, top: 0.2, guides: [0.001, 0.1] },
    ),
    chart("Gaps and missed diffs", `${number(last("gaps"))}, ${number(last("diffs_missed"))}`, [
      [of("gaps"), "first"],
      [of("diffs_missed"), "second"],
    ]),
    chart(
      "Bytes in the logs; the line is the bound",
      `${bytes(server.log_bytes)} of ${bytes(server.log_bytes_limit)}`,
      [[of("log_bytes"), "first"]],
      // The bound is drawn when it is near.
      server.log_bytes > server.log_bytes_limit / 4
        ? { top: server.log_bytes_limit, guides: [server.log_bytes_limit] }
        : {},
    ),
    chart("Sessions", number(last("sessions")), [[of("sessions"), "first"]]),
  );
}

// columns: [[title, kind, cell of a row], ...]
function table(id, columns, rows, emphasis) {
  const head = element("tr");
  head.append(...columns.map(([title, kind]) => {
    const cell = element("th", title, ...(kind ? [kind] : []));
    cell.scope = "col";
    return cell;
  }));
  const body = rows.map((row) => {
    const line = element("tr", undefined, ...(emphasis?.(row) ? ["alarm"] : []));
    line.append(...columns.map(([, kind, cell]) => {
      const text = cell(row);
      const made = element("td", text, ...(kind ? [kind] : []));
      if (kind === "name") made.title = text;
      return made;
    }));
    return line;
  });
  const thead = element("thead");
  thead.append(head);
  const tbody = element("tbody");
  tbody.append(...body);
  at(id).replaceChildren(thead, tbody);
}

// The column that says whose a row is, where there are several.
const replicaOf = (status, cell) => (status.replicas.length > 0 ? [["Replica", "name", cell]] : []);

// Which replicas can be chosen: those that are told, and what is chosen now.
function offer(told) {
  const names = new Set(told);
  if (wanted !== "") names.add(wanted);
  const select = at("replica");
  const options = ["", ...[...names].sort()];
  const shown = [...select.options].map((option) => option.value);
  if (options.join("\n") !== shown.join("\n")) {
    select.replaceChildren(...options.map((name) => new Option(name === "" ? "all" : name, name)));
    select.value = wanted;
  }
  at("of").hidden = false;
}

function showReplicas(status) {
  const several = status.replicas.length > 0;
  at("replicas-section").hidden = !several;
  if (!several) return;
  offer(status.replicas.filter((r) => r.instance_id !== "").map((r) => r.name));
  const of = (cell) => (r) => (r.server === null ? "–" : cell(r.server));
  table(
    "replicas",
    [
      ["Name", "name", (r) => r.name],
      ["State", "", (r) => (r.missing === "" ? of((s) => s.state)(r) : r.missing)],
      ["Version", "", of((s) => s.version)],
      ["Instance", "", (r) => orDash(r.instance_id)],
      ["Address", "", of((s) => s.listen_address)],
      ["For", "number", of((s) => duration(status.at - s.started_at))],
      ["Sessions", "number", of((s) => number(s.sessions))],
      ["Subscriptions", "number", of((s) => number(s.subscriptions))],
      ["Shards", "number", of((s) => number(s.shards))],
      ["Logs", "number", of((s) => `${bytes(s.log_bytes)} of ${bytes(s.log_bytes_limit)}`)],
    ],
    status.replicas,
    (r) => r.missing !== "",
  );
}

const orDash = (text) => (text === "" || text === null || text === undefined ? "–" : String(text));

function showGroups(status) {
  table(
    "groups",
    [
      ...replicaOf(status, (g) => g.replica),
      ["Environment", "name", (g) => orDash(g.environment)],
      ["Generation", "number", (g) => (g.generation === null ? "unknown" : String(g.generation))],
      ["Wire", "", (g) => g.wire_version],
      ["Role", "name", (g) => orDash(g.role)],
      ["Mode", "", (g) => g.mode],
      ["Version", "name", (g) => orDash(g.client_version)],
      ["Sessions", "number", (g) => number(g.sessions)],
      ["Behind", "number", (g) => number(g.sessions_behind)],
      ["Subscriptions", "number", (g) => number(g.subscriptions)],
      ["Published/s", "number", (g) => number(g.publishes_per_second)],
      ["Delivered/s", "number", (g) => number(g.deliveries_per_second)],
      ["Last publish", "number", (g) => (g.last_publish === null ? "never" : `${duration(Math.max(0, status.at - g.last_publish))} ago`)],
      ["Missed", "number", (g) => number(g.diffs_missed)],
    ],
    status.groups,
    (g) => g.sessions_behind > 0,
  );
  at("groups-note").textContent =
    status.groups_left_out > 0 ? `${number(status.groups_left_out)} more kinds of sessions are not shown.` : "";
}

function showSessions(status) {
  table(
    "sessions",
    [
      ...replicaOf(status, (s) => s.replica),
      ["Id", "number", (s) => String(s.session_id)],
      ["Caller", "name", (s) => orDash(s.caller_id)],
      ["Environment", "name", (s) => orDash(s.environment)],
      ["Generation", "number", (s) => orDash(s.generation)],
      ["Wire", "", (s) => s.wire_version],
      ["Address", "", (s) => s.address],
      ["For", "number", (s) => duration(status.at - s.connected_since)],
      ["Subscriptions", "number", (s) => number(s.subscriptions)],
      ["Published/s", "number", (s) => number(s.publishes_per_second)],
      ["Delivered/s", "number", (s) => number(s.deliveries_per_second)],
      ["Behind", "number", (s) => (s.behind_for === null ? "–" : `${number(s.shards_behind)} shards, ${duration(s.behind_for)}`)],
      ["Missed", "number", (s) => number(s.diffs_missed)],
    ],
    status.sessions,
    (s) => s.behind_for > 1,
  );
  const rest = status.server.sessions - status.sessions.length;
  at("sessions-note").textContent = rest > 0 ? `${number(rest)} more: persist-pubsub sessions` : "";
}

function showShards(status) {
  table(
    "shards",
    [
      ...replicaOf(status, (s) => s.replica),
      ["Environment", "name", (s) => orDash(s.environment)],
      ["Shard", "", (s) => s.shard_id],
      ["Seqno", "number", (s) => orDash(s.head_seqno)],
      ["Diffs/s", "number", (s) => number(s.diffs_per_second)],
      ["Subscribers", "number", (s) => number(s.subscribers)],
      ["In the log", "number", (s) => number(s.log_entries)],
      ["Bytes", "number", (s) => bytes(s.log_bytes)],
      ["Held back", "number", (s) => number(s.held_back)],
    ],
    status.shards,
  );
  const rest = status.server.shards - status.shards.length;
  at("shards-note").textContent = rest > 0 ? `${number(rest)} more: persist-pubsub shards` : "";
}

// Says how old what is shown is, if it is not new.
function watchAge() {
  const silent = heardAt === null ? null : performance.now() - heardAt;
  const lost = heardAt !== null && silent > STALE_MILLIS;
  at("main").classList.toggle("stale", lost);
  const note = at("lost");
  note.hidden = !lost && heardAt !== null;
  if (heardAt === null) {
    const whom = wanted === "" ? "" : ` Is there a replica called ${wanted}?`;
    note.textContent = `Nothing has been heard from the server yet.${whom}`;
  } else if (lost) {
    note.textContent =
      `The connection to the server is lost. What is shown is of ${clock(serverTime)}, ` +
      `${duration(silent / 1000)} ago. Trying again.`;
    const badge = at("state");
    badge.textContent = "unknown";
    badge.className = "badge bad";
  }
}

function connect() {
  const source = new EventSource(`status/events?replica=${encodeURIComponent(wanted)}`);
  source.onmessage = (event) => {
    const told = JSON.parse(event.data);
    samples = [...samples, ...told.samples].slice(-KEPT);
    heardAt = performance.now();
    serverTime = told.status.at;
    show(told.status);
    watchAge();
  };
  // A new connection is told all that the server keeps.
  source.onopen = () => {
    samples = [];
  };
  source.onerror = () => {
    // From one that does not answer there is a way back to all.
    if (wanted !== "") offer([]);
    // The browser tries again by itself, unless it was refused for good.
    if (source.readyState === EventSource.CLOSED) {
      source.close();
      setTimeout(connect, 2000);
    }
  };
}

at("replica").addEventListener("change", () => {
  location.search = new URLSearchParams({ replica: at("replica").value });
});
connect();
setInterval(watchAge, 1000);
