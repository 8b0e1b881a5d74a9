//! What the grid is made of: who there is, which homes they are told to have
//! in which order, and what goes wrong.

use std::net::SocketAddr;

use crate::simulation::net::{Host, data_port};

/// A process of the environment. They move in the order of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// `environmentd`: it has the embedded server in it.
    Environmentd,
    /// A `clusterd`.
    ClusterA,
    /// Another.
    ClusterB,
}

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {
    /// In `environmentd`, and gone with it.
    Embedded,
    /// By itself.
    Standalone,
}

/// Who crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// A process, and what is in it.
    Process(Who),
    /// The standalone server.
    Standalone,
}

/// How far a process is: which homes it is told to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Embedded,
    Both,
    Standalone,
}

impl Step {
    pub(super) fn homes(self) -> &'static [Server] {
        match self {
            Self::Embedded => &[Server::Embedded],
            Self::Both => &[Server::Embedded, Server::Standalone],
            Self::Standalone => &[Server::Standalone],
        }
    }
}

impl Who {
    pub(super) const ALL: [Self; 3] = [Self::Environmentd, Self::ClusterA, Self::ClusterB];

    pub(super) fn host(self) -> Host {
        match self {
            Self::Environmentd => 20,
            Self::ClusterA => 21,
            Self::ClusterB => 22,
        }
    }
}

impl Server {
    pub(super) const ALL: [Self; 2] = [Self::Embedded, Self::Standalone];

    pub(super) fn host(self) -> Host {
        match self {
            Self::Embedded => Who::Environmentd.host(),
            Self::Standalone => 1,
        }
    }

    pub(super) fn address(self) -> SocketAddr {
        data_port(self.host())
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// In which order the processes move.
    pub order: [Who; 3],
    /// From the standalone server to the embedded one.
    pub back: bool,
    /// After so many moves, of six, the way turns, and leads to where it began.
    pub turn: Option<usize>,
    /// Who crashes, after how many moves, and how many milliseconds later.
    pub crash: Option<(Victim, usize, u64)>,
}

impl Cell {
    /// Every cell: each way, with and without a turn, each order, each crash at
    /// each place, at once and in the middle of what the move before set off.
    pub fn all() -> impl Iterator<Item = Self> {
        use Who::{ClusterA as A, ClusterB as B, Environmentd as E};
        let orders = [
            [E, A, B],
            [A, E, B],
            [A, B, E],
            [E, B, A],
            [B, E, A],
            [B, A, E],
        ];
        let ways = [None, Some(1), Some(2), Some(3), Some(4), Some(5), Some(6)];
        orders.into_iter().flat_map(move |order| {
            [false, true].into_iter().flat_map(move |back| {
                ways.into_iter().flat_map(move |turn| {
                    let cell = Self {
                        order,
                        back,
                        turn,
                        crash: None,
                    };
                    std::iter::once(cell).chain(crashes(cell))
                })
            })
        })
    }

    /// The moves: who, and to where.
    pub(super) fn moves(&self) -> Vec<(Who, Step)> {
        let steps = match self.back {
            false => [Step::Embedded, Step::Both, Step::Standalone],
            true => [Step::Standalone, Step::Both, Step::Embedded],
        };
        let there = steps.windows(2).flat_map(|pair| {
            let to = pair[1];
            self.order.iter().map(move |&who| (who, to))
        });
        let mut moves: Vec<_> = there.collect();
        if let Some(turn) = self.turn {
            moves.truncate(turn);
            // Where each was before its move.
            let back: Vec<_> = (0..moves.len())
                .rev()
                .map(|at| (moves[at].0, steps[at / 3]))
                .collect();
            moves.extend(back);
        }
        moves
    }
}

fn crashes(cell: Cell) -> impl Iterator<Item = Cell> {
    let victims = [
        Victim::Process(Who::Environmentd),
        Victim::Process(Who::ClusterA),
        Victim::Process(Who::ClusterB),
        Victim::Standalone,
    ];
    let moves = cell.moves().len();
    victims.into_iter().flat_map(move |victim| {
        (0..=moves).flat_map(move |after| {
            // At once; while sessions are being opened; while they are given up.
            [0, 6, 60].map(|later| Cell {
                crash: Some((victim, after, later)),
                ..cell
            })
        })
    })
}
