//! Old by new: every client with every server, scenario by scenario.
//!
//! | room | what it is |
//! |---|---|
//! | [`client`] | a client of some kind at work |
//! | [`server`] | a server of some kind at work, behind a network |
//! | [`scenario`], `partner` | what a pair has to be able to do; somebody else at the same server |
//! | [`transcript`] | what a client said and a server answered, byte for byte |
//! | [`script`] | the scenarios as such messages |
//! | [`release`] | what is kept of each release, and built from it |

pub mod client;
mod partner;
pub mod release;
pub mod scenario;
pub mod script;
pub mod server;
pub mod transcript;

use std::fmt::Write as _;

use self::client::ClientKind;
use self::scenario::SCENARIOS;
use self::server::ServerKind;

/// What came of a pair.
#[derive(Debug)]
pub struct Cell {
    /// The client.
    pub client: ClientKind,
    /// The server.
    pub server: ServerKind,
    /// Each scenario, and why it failed if it did. Those that are not for
    /// this pair are missing.
    pub outcomes: Vec<(&'static str, Result<(), String>)>,
}

/// Tries one pair.
pub async fn try_pair(client: ClientKind, server: ServerKind) -> Cell {
    let mut outcomes = Vec::new();
    for scenario in SCENARIOS {
        if !scenario.is_for(&client, &server) {
            continue;
        }
        let outcome = Box::pin(scenario.run(&client, &server)).await;
        outcomes.push((scenario.name, outcome.map_err(|why| why.to_string())));
    }
    Cell {
        client,
        server,
        outcomes,
    }
}

/// The cells as a table in Markdown: what each pair can do.
#[must_use]
pub fn table(cells: &[Cell]) -> String {
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for cell in cells {
        if !clients.contains(&cell.client.name()) {
            clients.push(cell.client.name());
        }
        if !servers.contains(&cell.server.name()) {
            servers.push(cell.server.name());
        }
    }
    let mut text = String::from("| client |");
    // Writing to a String does not fail.
    for server in &servers {
        let _ = write!(text, " {server} |");
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(servers.len()));
    for client in &clients {
        let _ = write!(text, "| {client} |");
        for server in &servers {
            let this =
                |cell: &&Cell| cell.client.name() == *client && cell.server.name() == *server;
            let _ = write!(
                text,
                " {} |",
                cells.iter().find(this).map_or_else(String::new, show)
            );
        }
        text.push('\n');
    }
    text
}

fn show(cell: &Cell) -> String {
    let passed: Vec<_> = cell.outcomes.iter().filter(|(_, it)| it.is_ok()).collect();
    let failed = cell.outcomes.iter().filter(|(_, it)| it.is_err());
    let failed: Vec<_> = failed
        .map(|(name, _)| format!("**{name}: fails**"))
        .collect();
    let names: Vec<_> = passed.iter().map(|(name, _)| *name).collect();
    [failed.join(", "), names.join(", ")]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}
