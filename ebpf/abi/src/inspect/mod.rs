//! What a flow's first bytes say: how it is encrypted, what it speaks, and what a rule accepts of that.

mod demand;
mod names;
mod state;
mod told;

pub use demand::{Accept, Demand};
pub use names::{App, Class};
pub use state::{Ahead, Conversation, Datagrams, Early, Inspection, Reading, Stream};
pub use told::{ClassCount, ClassKey, Piece};
