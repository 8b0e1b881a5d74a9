//! What an operator should know, and do.

use std::time::Duration;

use persist_pubsub_proto::admin_v1::{
    FindingLevel, GetServerInfoResponse, Shard, StatusFinding, StatusSample,
};

use super::people::Crowd;
use crate::drain::DrainState;

/// Counters are looked at over so many samples: about a minute.
const LOOK_BACK: usize = 60;
/// A log that fills its bound by so much is worth a word before it is full.
const NEARLY_FULL: f64 = 0.9;
/// A session that waits so long is not only slow.
const STUCK: Duration = Duration::from_secs(30);

/// Worst first.
pub(super) fn find<'a>(
    server: &GetServerInfoResponse,
    crowd: &Crowd,
    shards: &[Shard],
    latest: impl Iterator<Item = &'a StatusSample> + Clone,
) -> Vec<StatusFinding> {
    let minute = latest.take(LOOK_BACK);
    let total = |count: fn(&StatusSample) -> u64| minute.clone().map(count).sum::<u64>();
    let mut found = Findings::default();
    if server.state != DrainState::Serving.as_str() {
        found.warning(
            format!("The server is {}: it is about to go.", server.state),
            "Clients move to the next one by themselves. If none is starting, start one.",
        );
    }
    slow(crowd, &mut found);
    let missed = total(|s| s.diffs_missed);
    if missed > 0 {
        found.warning(
            format!("Diffs that left the log in the last minute before a subscriber had read them: {missed}. v1 readers fetch, v0 readers poll."),
            "See the sessions that are behind. If none is, the log is too short for its readers: raise --log-bytes-per-shard, --log-entries-per-shard or --log-age.",
        );
    }
    let evicted = total(|s| s.evicted_for_total);
    if evicted > 0 {
        found.alarm(
            format!("The logs are full. Diffs that had to make room in the last minute: {evicted}."),
            "Raise --log-bytes-total (and the memory limit with it), or find the shards that are so busy.",
        );
    } else if server.log_bytes as f64 > NEARLY_FULL * server.log_bytes_limit as f64 {
        found.note(
            "The logs hold nearly as many bytes as they may.".to_owned(),
            "From there on the oldest diffs make room early. If readers miss diffs then, raise --log-bytes-total.",
        );
    }
    let refused = total(|s| s.refused);
    if refused > 0 {
        found.alarm(
            format!("There are too many connections or sessions. Refused in the last minute: {refused}."),
            "Look for one that connects in a loop (persist-pubsub sessions), or raise --max-connections and --max-sessions.",
        );
    }
    let rejected = total(|s| s.rejected);
    if rejected > 0 {
        found.warning(
            format!("Messages refused in the last minute: {rejected}."),
            "The log says whose and why, and persist_pubsub_messages_rejected_total how many for which reason.",
        );
    }
    let gaps = total(|s| s.gaps);
    if gaps > 0 {
        found.note(
            format!("Holes that shards were let on past in the last minute: {gaps}. Somebody commits without publishing, or has lost its connection."),
            "persist-pubsub tap, or WatchShards, shows which shards. A writer that is not connected here is the usual cause: look for a generation that is missing.",
        );
    }
    let held: u64 = shards.iter().map(|s| s.held_back).sum();
    if held > 0 {
        found.note(
            format!("Diffs that wait for their predecessor at present: {held}."),
            "Nothing, unless it stays so: each waits for at most --reorder-window.",
        );
    }
    if server.sessions == 0 {
        found.note(
            "Nobody is connected.".to_owned(),
            "Point environmentd at this server: --persist-pubsub-url=http://<service>:6879.",
        );
    }
    found.in_order()
}

fn slow(crowd: &Crowd, found: &mut Findings) {
    let slowest = crowd.sessions.iter().find_map(|s| {
        let session = s.session.as_ref()?;
        let waits = Duration::try_from(session.behind_for?).ok()?;
        Some((session, waits))
    });
    let (Some((slowest, waits)), true) = (slowest, crowd.sessions_behind > 0) else {
        return;
    };
    let what = format!(
        "Sessions that have waited for more than a second to take something: {}. Longest, {} ({:?} at {}): {} s.",
        crowd.sessions_behind,
        slowest.session_id,
        slowest.caller_id,
        slowest.address,
        waits.as_secs()
    );
    let remedy = "Its process does not read, or the network to it is slow. It delays nobody else. What leaves the log before it reads it, it has to fetch.";
    if waits > STUCK {
        found.alarm(what, remedy);
    } else {
        found.warning(what, remedy);
    }
}

#[derive(Default)]
struct Findings(Vec<StatusFinding>);

impl Findings {
    fn add(&mut self, level: FindingLevel, what: String, remedy: &str) {
        self.0.push(StatusFinding {
            level: level.into(),
            what,
            remedy: remedy.to_owned(),
            replica: String::new(),
        });
    }

    fn note(&mut self, what: String, remedy: &str) {
        self.add(FindingLevel::Note, what, remedy);
    }

    fn warning(&mut self, what: String, remedy: &str) {
        self.add(FindingLevel::Warning, what, remedy);
    }

    fn alarm(&mut self, what: String, remedy: &str) {
        self.add(FindingLevel::Alarm, what, remedy);
    }

    fn in_order(mut self) -> Vec<StatusFinding> {
        self.0
            .sort_by_key(|finding| std::cmp::Reverse(finding.level));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> GetServerInfoResponse {
        GetServerInfoResponse {
            state: "serving".to_owned(),
            sessions: 3,
            log_bytes: 10,
            log_bytes_limit: 100,
            ..GetServerInfoResponse::default()
        }
    }

    fn levels(findings: &[StatusFinding]) -> Vec<FindingLevel> {
        findings.iter().map(StatusFinding::level).collect()
    }

    #[test]
    fn who_is_well_has_nothing_to_do() {
        let quiet = [StatusSample::default()];
        let found = find(&server(), &Crowd::default(), &[], quiet.iter());
        assert_eq!(found, []);
    }

    #[test]
    fn the_worst_comes_first() {
        let sample = StatusSample {
            gaps: 2,
            diffs_missed: 3,
            evicted_for_total: 4,
            ..StatusSample::default()
        };
        let found = find(&server(), &Crowd::default(), &[], [sample].iter());
        assert_eq!(
            levels(&found),
            [
                FindingLevel::Alarm,
                FindingLevel::Warning,
                FindingLevel::Note
            ]
        );
        assert!(
            found[0].what.contains("last minute: 4"),
            "{}",
            found[0].what
        );
    }

    #[test]
    fn what_is_long_ago_is_over() {
        let mut samples = vec![StatusSample::default(); LOOK_BACK];
        samples.push(StatusSample {
            rejected: 1,
            ..StatusSample::default()
        });
        let found = find(&server(), &Crowd::default(), &[], samples.iter());
        assert_eq!(found, []);
    }

    #[test]
    fn a_server_that_goes_says_so() {
        let mut server = server();
        server.state = "draining".to_owned();
        let found = find(&server, &Crowd::default(), &[], [].iter());
        assert_eq!(levels(&found), [FindingLevel::Warning]);
    }
}
