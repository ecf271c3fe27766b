//! From zone files to what the kernel holds: `source → ast → model → checks → image → diff`.
//!
//! Each step is a value, and none of them touches the kernel. [`load()`] turns files into a [`Model`] or
//! into every mistake at once; [`compile()`] turns a model and the [`Facts`] of this host into an
//! [`Image`]; [`oracle::judge`] decides a flow straight from the model, slowly and readably, and shares
//! no code with the compiler: the two must always agree.
//!
//! It fails closed: a policy with an error yields no model, a policy that does not fit yields no image,
//! and an image that contradicts itself denies.
#![forbid(unsafe_code)]

pub mod access;
mod ast;
mod check;
pub mod compile;
pub mod diagnostic;
pub mod expect;
pub mod explain;
pub mod image;
pub mod load;
pub mod model;
pub mod numbers;
pub mod oracle;
pub mod ports;
pub mod prefix;
mod reader;
pub mod source;
mod suggest;
#[cfg(feature = "testing")]
pub mod testing;

pub use compile::{CompileError, Compiler, compile};
pub use diagnostic::{Diagnostic, Diagnostics};
pub use explain::{Explanation, explain};
pub use image::{Image, ImageDiff};
pub use load::{Capabilities, Loaded, Loader, load};
pub use model::{Endpoint, Facts, Flow, Model, Rule, Zone};
pub use numbers::Numbers;
pub use prefix::Prefix;
pub use source::{Source, SourceError, Sources};
