//! The names of instances and servers.

/// Names of instances and servers: they become file names and parts of URLs.
pub fn check_name(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) || name.starts_with(['.', '-']) {
        return Err(format!(
            "'{name}' cannot be a name: 1 to 64 letters, digits, '-', '_' and '.', not beginning with '.' or '-'"
        ));
    }
    Ok(())
}
