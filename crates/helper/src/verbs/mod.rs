//! What root does. Verbs come in pairs, each pair is one file, and each may be repeated.

pub(crate) mod jail;
mod scope;
pub(crate) mod sweep;
pub(crate) mod tap;
pub(crate) mod vmm;
