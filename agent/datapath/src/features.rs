//! What the running kernel offers: asked of it, and not read off its version, which distributions patch.
//!
//! Whatever is missing has a fallback; `bulkhead status` shows which ones are in use.

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

use crate::DatapathError;

/// What is made use of where it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// `bpf_get_netns_cookie` in packet programs (Linux 6.15). Without it, a socket's namespace is what was
    /// remembered in its storage when it was made.
    pub netns_cookie: bool,
    /// Programs on interfaces by links (TCX, Linux 6.6). Without it, they are filters of a clsact queueing
    /// discipline.
    pub tcx: bool,
}

impl Features {
    /// Asks the kernel. Takes under a millisecond.
    pub fn probe() -> Result<Self, DatapathError> {
        let helper = BpfHelper::BPF_FUNC_get_netns_cookie;
        let netns_cookie = is_helper_supported(ProgramType::CgroupSkb, helper)
            .map_err(|error| DatapathError::Program { name: "that asks for a helper", error })?;
        Ok(Self { netns_cookie, tcx: bulkhead_sys::link::tcx::is_supported() })
    }
}
