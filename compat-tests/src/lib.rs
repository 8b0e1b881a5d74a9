//! Instruments of the tests that hold a server to its promises, over real
//! connections and on real traffic. `README.md` tells how to use them.
//!
//! | room | what it is |
//! |---|---|
//! | [`recording`] | reads recorded v0 traffic |
//! | [`v0_peer`] | a scripted v0 client |
//! | [`v1_peer`] | a scripted v1 client |
//! | [`entrant`] | how a peer gets in: certificates, tokens |
//! | [`certificates`] | authorities of a test's own |
//! | [`raw_call`] | a call below gRPC: any headers, any bytes |
//! | [`raw_connection`] | a connection below HTTP/2: it stops where it is told to |
//! | [`v0_client`] | the connection of a deployed v0 client, which comes back as slowly as the real one |
//! | [`v0_reader`] | the model of a deployed v0 reader, and one at work |
//! | [`store`] | the model of the consensus store: which seqnos are committed |
//! | [`ledger`] | a store with one appender at a time, which knows when each diff was committed |
//! | [`v1_process`], [`v0_process`] | the models of whole processes: a state cache over the store, and what pubsub made of it |
//! | [`hole`] | how far a process was behind |
//! | [`proxy`] | a TCP proxy: it delays, stalls, trickles, cuts, and leads to another server |
//! | [`histogram`] | latencies, printed |
//! | [`marker`] | tells when a server has taken what was sent, where v0 has no answer |
//! | [`matrix`] | every client with every server, of every release |
//! | [`mutation`] | a change of the code that has to break a promise's test |
//! | [`replay`] | plays a recording to a server over v0 |
//! | [`simulation`] | the server and the client over a simulated network and clock |
//! | [`broadcaster`] | the yardstick: a plain v0 server without a log |
//! | [`relay`] | the other yardstick: what TCP itself allows |
//! | [`bystanders`] | sessions that are to notice nothing |
//! | [`operator`] | what the admin port shows |
//! | [`built`] | the programs that tests start, built where that is necessary |
//! | [`child`] | starts the real server as a child process |
//! | [`nats`] | nats-servers as children: one or a cluster, with users, certificates, JetStream |
//! | [`replicas`] | several of the real server over NATS, each with lines of its own that can be cut |
//! | [`fencer`] | a v1 server that fences its clients out |
//! | [`command_line`] | runs the program's other subcommands |
//! | [`drill`] | the upgrade drill: model processes as children, over a consensus store with compare-and-set |
//! | [`fuzz`] | the bodies of the fuzz targets |
//! | [`browser`] | a real browser without a window |
//! | [`tools`], [`grpcurl`] | programs from outside, where they are installed |
//! | [`witness`] | holds what one v1 session hears against what was committed, promise by promise |
//! | [`watched`] | a v1 session on a real connection with a witness beside it |
//! | [`wait`] | waits with an end, and says what was awaited |

#![deny(missing_docs)]

pub mod broadcaster;
pub mod browser;
pub mod built;
pub mod bystanders;
pub mod certificates;
pub mod child;
pub mod command_line;
pub mod drill;
pub mod entrant;
pub mod fencer;
pub mod fuzz;
pub mod grpcurl;
pub mod histogram;
pub mod hole;
pub mod ledger;
pub mod marker;
pub mod matrix;
pub mod mutation;
pub mod nats;
pub mod operator;
pub mod proxy;
pub mod raw_call;
pub mod raw_connection;
pub mod recording;
pub mod relay;
pub mod replay;
pub mod replicas;
pub mod simulation;
pub mod store;
pub mod tools;
pub mod v0_client;
pub mod v0_peer;
pub mod v0_process;
pub mod v0_reader;
pub mod v1_peer;
pub mod v1_process;
pub mod wait;
pub mod watched;
pub mod witness;
