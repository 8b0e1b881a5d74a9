//! `mutate list` prints the mutations, tab-separated; `mutate NAME ROOT` applies
//! one to the workspace at ROOT. For `mutants.sh`.

use std::error::Error;
use std::path::Path;

use persist_pubsub_compat_tests::mutation;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = mutation::all()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["list"] => {
            for m in all {
                println!("{}	{}	{}", m.promise, m.name, m.test);
            }
            Ok(())
        }
        [name, root] => {
            let found = all.iter().find(|m| m.name == name);
            let found = found.ok_or_else(|| format!("there is no mutation {name}"))?;
            let root = Path::new(root);
            std::fs::write(root.join(&found.file), found.applied(root)?)?;
            Ok(())
        }
        _ => Err("mutate list | mutate NAME ROOT".into()),
    }
}
