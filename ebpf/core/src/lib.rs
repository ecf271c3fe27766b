//! The decisions of the kernel programs, off the kernel.
//!
//! Read it in this order: [`packet`] (bytes to who-sends-what-to-whom), [`tables`] (the compiled
//! policy), [`endpoint`] (who an endpoint is), [`judge`] (the verdict), [`track`] (flows: the entry
//! point of the packet hooks), [`call`] (the entry point of the socket-call hooks), [`guard`] (the entry
//! point of the interfaces' hooks), [`inspect`] (what a flow's first bytes say).
//!
//! Everything is generic over traits that the kernel crate implements with maps and helpers and the
//! tests with ordinary collections; no unsafe, no allocation, no loop without a bound. Whatever cannot
//! be decided is denied to and from zones.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "testing")]
extern crate std;

pub mod call;
pub mod endpoint;
pub mod guard;
#[cfg(feature = "testing")]
pub mod host;
pub mod inspect;
pub mod judge;
pub mod packet;
pub mod report;
pub mod tables;
pub mod track;
