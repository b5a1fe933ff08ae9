//! The program that attacks, in the image of a rig.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use runtime::ContainerConfig;

use super::Rig;

/// Puts the attacker into the image, with what it is linked to: the same libraries as this program.
pub fn arm(rig: &Rig) {
    let target = rig.layer.join("bin/attack");
    fs::copy(env!("CARGO_BIN_EXE_attack"), target).unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let paths: BTreeSet<&Path> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.contains(".so"))
        .map(Path::new)
        .collect();
    for path in paths {
        let inside = rig.layer.join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(path, inside).unwrap();
    }
    // Where programs say that their loader is.
    for loader in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"] {
        if Path::new(loader).exists() {
            let inside = rig.layer.join(loader.trim_start_matches('/'));
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            fs::copy(loader, inside).unwrap();
        }
    }
}

pub fn attacker(rig: &Rig, id: &str, args: &[&str]) -> ContainerConfig {
    let args: Vec<&str> = ["attack"].into_iter().chain(args.iter().copied()).collect();
    rig.container_config(id, &args)
}
