//! Compiles the programs for the kernel's BPF machine and leaves them beside the crate's other
//! build products, to be embedded.

use std::path::Path;
use std::process::Command;

/// Each `bpf/NAME.bpf.c` becomes `NAME.bpf.o`.
const PROGRAMS: [&str; 2] = ["steer", "divert"];

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let variable = |name| std::env::var(name).unwrap_or_default();
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    // Debian keeps <asm/types.h>, which the kernel's headers include, under the architecture.
    let multiarch = format!("/usr/include/{}-linux-gnu", variable("CARGO_CFG_TARGET_ARCH"));
    let endianness = match variable("CARGO_CFG_TARGET_ENDIAN").as_str() {
        "big" => "bpfeb",
        _ => "bpfel",
    };
    for program in PROGRAMS {
        let source = format!("bpf/{program}.bpf.c");
        let object = Path::new(&variable("OUT_DIR")).join(format!("{program}.bpf.o"));
        // -g makes the type information (BTF) by which the program's maps are described.
        let status = Command::new(&clang)
            .args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", endianness])
            .args(["-idirafter", &multiarch, "-c", &source, "-o"])
            .arg(&object)
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{clang} could not compile {source}: {status}"),
            Err(error) => panic!(
                "cannot run {clang}: {error}; it compiles {source}. `make deps` installs it, or \
                 the environment variable CLANG names another one"
            ),
        }
    }
}
