//! The files that pods see beside their image: volumes, and the few files of `/etc`.
