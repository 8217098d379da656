//! The standard metrics of a process, from `/proc/self`. A value that cannot be read is left out.

use super::metrics::MetricsText;

pub fn write(text: &mut MetricsText) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(values) = ProcessStatFields::parse(&stat) {
        text.process(
            "cpu_seconds_total",
            "counter",
            "CPU time used",
            values.cpu_ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        );
        text.process(
            "resident_memory_bytes",
            "gauge",
            "memory in use",
            values.resident_pages * rustix::param::page_size() as u64,
        );
        text.process("threads", "gauge", "threads", values.threads);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // one of them is the descriptor of the directory itself
        text.process(
            "open_fds",
            "gauge",
            "open descriptors",
            open.count().saturating_sub(1),
        );
    }
}

/// The values of proc_pid_stat(5) that are used.
#[derive(Debug, PartialEq, Eq)]
struct ProcessStatFields {
    cpu_ticks: u64,
    threads: u64,
    resident_pages: u64,
}

impl ProcessStatFields {
    fn parse(stat: &str) -> Option<ProcessStatFields> {
        // the name of the program, in parentheses, may itself have spaces and parentheses
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // the first field after the name is number 3 in the manual
        let number = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
        Some(ProcessStatFields {
            cpu_ticks: number(14)? + number(15)?,
            threads: number(20)?,
            resident_pages: number(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_moves_no_field() {
        let stat = "7 (a ) (b) S 1 7 7 0 -1 4194560 1 2 3 4 50 25 0 0 20 0 9 0 100 200 300 18446744073709551615";
        let wanted = ProcessStatFields {
            cpu_ticks: 75,
            threads: 9,
            resident_pages: 300,
        };
        assert_eq!(ProcessStatFields::parse(stat), Some(wanted));
        assert_eq!(ProcessStatFields::parse(""), None);
        assert_eq!(ProcessStatFields::parse("7 (x) S 1"), None);
    }
}
