//! The proxy: turned-in connections go out as HBONE (HTTP/2 CONNECT over mutual TLS), and HBONE that comes
//! in goes to the program that it is for. It asks its [`Node`] who is who and who may, and knows neither
//! the kernel's maps nor policy files.
#![forbid(unsafe_code)]

mod node;

pub use node::{Denied, Edge, Inbound, Node, Outbound, Place};
