//! The whole product against real guests: `banger`, `bangerd`, QEMU with software emulation, the agent, a real image.
//!
//! Each test gets a [`host::Host`]: a home of its own with the shared image and kernel linked in, its own daemon, and a
//! check at the end that nothing is left of it. What they need is made by `make test` (see `scripts/test.sh`).
//!
//! | file | what it shows |
//! |---|---|
//! | [`run`] | one command in a new VM: its output, its status, its workspace |
//! | [`lifecycle`] | what stays over stop and start, and how a guest ends |
//! | [`verbs`] | what is done to a VM that runs |
//! | [`stdio`] | exact bytes, terminals, signals, back-pressure |
//! | [`network`] | what a guest reaches and what reaches it |
//! | [`load`] | boots and clocks while every core is busy |
//! | [`copy`] | files in and out |
//! | [`repository`] | a repository goes in, and the work comes back |
//! | [`crash`] | the daemon killed at each step of a start, and a VMM |
//! | [`full`] | a disk without a free byte |
//! | [`sessions`] | commands left running, over the daemon's death and beside stalled watchers |
//! | [`tooling`] | tools that a repository pins, and its development container |
//! | [`saved`] | suspended VMs, snapshots, forks |
//! | [`template`] | VMs that go on from a template are their own, and one that is no good costs nothing |
//! | [`catalog`] | what one host publishes another boots |
//! | [`images`] | images of registries and archives are pulled and booted |
//! | [`register`] | a root filesystem that is a file becomes an image |
//! | [`commit`] | a VM becomes an image |
//! | [`docker`] | Docker in the default image: a container, and two services |
//! | [`idle`] | a VM that nobody uses is stopped, and what using it is |
//! | [`soak`] | in `make soak` only: the daemon killed at each step of the rest, power cuts, many lives |
//! | [`workspace`] | repositories go in and patches come out, random and real ones, and from guests that lie |
//! | [`input`] | bad input and full disks: a clear error, and nothing left behind |

mod catalog;
mod commit;
mod copy;
mod crash;
mod docker;
mod full;
pub(crate) mod host;
mod idle;
mod images;
mod input;
mod lifecycle;
mod load;
mod network;
mod register;
mod repository;
mod run;
mod saved;
mod sessions;
mod soak;
mod stdio;
mod template;
mod tooling;
mod verbs;
mod workspace;
