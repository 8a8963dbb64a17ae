//! `/metrics`: the instance in the text formats of Prometheus.
//!
//! Names, units and labels follow <https://prometheus.io/docs/practices/naming/>. Labels come from the configuration and
//! from fixed lists, never from clients, so there is a bound to how many series there are. It must not know where the
//! numbers come from.

use std::fmt::{Error, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::model::meter::Sum;
use crate::model::method::Method;
use crate::model::status::{Process, Server, Status};

/// What is told, at one moment.
#[derive(Debug)]
pub(crate) struct Measured {
    pub status: Status,
    /// When the instance was started, in seconds since 1970.
    pub started: f64,
    /// The most descriptors that the daemon may have.
    pub max_fds: u64,
    pub requests: Vec<(String, Method, Sum)>,
}

/// The kind of text that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>, which Prometheus itself asks for.
    OpenMetrics,
    /// The older one, which everything reads.
    Classic,
}

impl Format {
    /// The format for a client that accepts these types.
    pub(crate) fn accepted(accept: &str) -> Format {
        match accept.contains("application/openmetrics-text") {
            true => Format::OpenMetrics,
            false => Format::Classic,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Everything as text.
pub(crate) fn text(measured: Measured, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(measured));
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut out, &registry);
    match format {
        Format::OpenMetrics => out,
        Format::Classic => classic(&out),
    }
}

/// Everything in the older format: there a counter has its whole name in its description as well, and there is no end mark.
fn classic(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if line.starts_with("# HELP ") {
            help = Some(line);
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            let words = help.take().and_then(|h| h.strip_prefix("# HELP ")?.strip_prefix(name)).unwrap_or("");
            let _ = writeln!(out, "# HELP {name}{suffix}{words}\n# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with("# ") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// Writes metrics, each with all its samples.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    /// Values that go up and down.
    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'l str, &'l str)>, f64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels.as_slice())?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// Values that only go up; `_total` is added to the name.
    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'l str, &'l str)>, f64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels.as_slice())?.encode_counter::<NoLabelSet, f64, f64>(&value, None)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, f64, f64>(&value, None)
    }

    fn durations(&mut self, all: &[(String, Method, Sum)]) -> Result<(), Error> {
        let help = "How long requests took until they were answered, by server and method.";
        let name = "mcpdaemon_request_duration_seconds";
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (server, method, sum) in all {
            let labels: Labels<'_> = &[("server", server), ("method", method.name())];
            let mut below = 0;
            let mut steps: Vec<(f64, u64)> =
                sum.steps().map(|(limit, so_far)| (limit, so_far - std::mem::replace(&mut below, so_far))).collect();
            steps.push((f64::INFINITY, sum.total().saturating_sub(below)));
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum.seconds(), sum.total(), &steps, None)?;
        }
        Ok(())
    }
}

/// One sample for each state: 1 for the one that is, 0 for the others.
fn states<'l>(
    label: &'static str,
    is: &str,
    all: &[&'static str],
    server: Option<&'l str>,
) -> Vec<(Vec<(&'l str, &'l str)>, f64)> {
    let sample = |state: &&'static str| {
        let mut labels: Vec<(&'l str, &'l str)> = server.map(|name| ("server", name)).into_iter().collect();
        labels.push((label, *state));
        (labels, f64::from(u8::from(**state == *is)))
    };
    all.iter().map(sample).collect()
}

const INSTANCE: &[&str] = &["starting", "ready", "degraded", "reloading", "draining", "stopped"];
const SERVER: &[&str] = &["starting", "ready", "unhealthy", "idle", "backoff", "failed", "stopping", "stopped"];
const LEVELS: &[&str] = &["healthy", "degraded", "unhealthy"];

impl Collector for Measured {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut w = Writer(encoder);
        self.instance(&mut w)?;
        if !self.status.servers.is_empty() {
            self.servers(&mut w)?;
        }
        if !self.requests.is_empty() {
            self.requests(&mut w)?;
        }
        self.process(&mut w)
    }
}

impl Measured {
    fn instance(&self, w: &mut Writer<'_>) -> Result<(), Error> {
        let s = &self.status;
        let mut build = w.0.encode_descriptor("mcpdaemon_build", "The program.", None, MetricType::Info)?;
        build.encode_info(&[("version", s.version.as_str())].as_slice())?;
        let (state, level) = (s.state.to_string(), s.health.level.to_string());
        w.gauges(
            "mcpdaemon_state",
            "The state of the instance: 1 for the one that it is in.",
            states("state", &state, INSTANCE, None),
        )?;
        w.gauges(
            "mcpdaemon_health",
            "The health of the instance: 1 for the level that it has.",
            states("level", &level, LEVELS, None),
        )?;
        w.gauge("mcpdaemon_connections", "Open connections.", s.connections as f64)?;
        w.gauge("mcpdaemon_sessions", "Open sessions.", s.sessions as f64)?;
        w.gauge("mcpdaemon_requests_in_flight", "Requests that are not answered yet.", s.requests.in_flight as f64)?;
        let applied = s.generation.saturating_sub(1);
        let reloads = [("applied", applied), ("refused", s.reloads.saturating_sub(applied))];
        let reloads = reloads.map(|(result, n)| (vec![("result", result)], n as f64));
        w.counters("mcpdaemon_reloads", "Reloads of the configuration, by their result.", reloads)?;
        let good = s.last_reload.as_ref().is_none_or(|r| r.ok);
        let help = "Whether the configuration in force is the one of the last reload.";
        w.gauge("mcpdaemon_config_last_reload_successful", help, f64::from(u8::from(good)))?;
        let help = "Upgrades in place that were asked for.";
        w.counter("mcpdaemon_upgrades", help, s.upgrades as f64)?;
        let dropped = s.dropped.iter().map(|(reason, n)| (vec![("reason", reason.as_str())], *n as f64));
        w.counters("mcpdaemon_dropped", "What was refused, cut or dropped.", dropped)
    }

    fn servers(&self, w: &mut Writer<'_>) -> Result<(), Error> {
        let all = &self.status.servers;
        let words: Vec<_> = all.iter().map(|s| (s.state.to_string(), s.health.level.to_string())).collect();
        let each = |read: fn(&Server) -> f64| all.iter().map(move |s| (vec![("server", s.name.as_str())], read(s)));
        let zipped = || all.iter().zip(&words);
        w.gauges(
            "mcpdaemon_server_state",
            "The state of a server: 1 for the one that it is in.",
            zipped().flat_map(|(s, (state, _))| states("state", state, SERVER, Some(&s.name))),
        )?;
        w.gauges(
            "mcpdaemon_server_health",
            "The health of a server: 1 for the level that it has.",
            zipped().flat_map(|(s, (_, level))| states("level", level, LEVELS, Some(&s.name))),
        )?;
        let help = "How often the child of a server ended, or did not become ready.";
        w.counters("mcpdaemon_server_restarts", help, each(|s| s.restarts as f64))?;
        w.gauges("mcpdaemon_server_sessions", "Open sessions of a server.", each(|s| s.sessions as f64))?;
        let help = "Requests to a server that are not answered yet.";
        w.gauges("mcpdaemon_server_requests_in_flight", help, each(|s| s.requests.in_flight as f64))?;
        let help = "Shared children that a server should have.";
        w.gauges("mcpdaemon_server_children_wanted", help, each(|s| s.children.wanted as f64))?;
        let help = "Shared children of a server that are ready.";
        w.gauges("mcpdaemon_server_children_ready", help, each(|s| s.children.ready as f64))?;
        let help = "Processor time of the processes of a server that live.";
        w.counters("mcpdaemon_server_cpu_seconds", help, each(|s| s.process.cpu_seconds))?;
        type Read = fn(&Process) -> u64;
        let of_processes: [(&str, &str, Read); 4] = [
            ("resident_memory_bytes", "Resident memory of the processes of a server.", |p| p.memory_bytes),
            ("threads", "Threads of the processes of a server.", |p| p.threads),
            ("open_fds", "Open file descriptors of the processes of a server.", |p| p.open_files),
            ("processes", "Processes of a server, with those that its children have started.", |p| p.processes),
        ];
        for (name, help, read) in of_processes {
            let samples = all.iter().map(|s| (vec![("server", s.name.as_str())], read(&s.process) as f64));
            w.gauges(&format!("mcpdaemon_server_{name}"), help, samples)?;
        }
        Ok(())
    }

    fn requests(&self, w: &mut Writer<'_>) -> Result<(), Error> {
        w.durations(&self.requests)?;
        let all = self.requests.iter();
        let samples = all.map(|(server, method, sum)| {
            (vec![("server", server.as_str()), ("method", method.name())], sum.errors as f64)
        });
        w.counters("mcpdaemon_request_errors", "Requests that were answered with an error, or not at all.", samples)
    }

    /// The standard names of what the kernel says of a process; here the daemon.
    fn process(&self, w: &mut Writer<'_>) -> Result<(), Error> {
        let p = &self.status.process;
        w.counter("process_cpu_seconds", "Processor time of the daemon.", p.cpu_seconds)?;
        w.gauge("process_resident_memory_bytes", "Resident memory of the daemon.", p.memory_bytes as f64)?;
        w.gauge("process_open_fds", "Open file descriptors of the daemon.", p.open_files as f64)?;
        w.gauge("process_max_fds", "The most file descriptors that the daemon may have.", self.max_fds as f64)?;
        w.gauge("process_threads", "Threads of the daemon.", p.threads as f64)?;
        w.gauge("process_start_time_seconds", "When the instance was started, in seconds since 1970.", self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::meter::Meters;
    use crate::model::status::{InstanceState, Level, ServerState, sample};
    use std::time::Duration;

    fn measured() -> Measured {
        let meters = Meters::default();
        for (micros, failed) in [(100, false), (300, true), (5_000_000, false), (500_000_000, false)] {
            meters.record(Method::ToolsCall, Duration::from_micros(micros), failed, 0);
        }
        let requests = meters.by_method(0).into_iter().map(|(m, sum)| ("a".to_owned(), m, sum)).collect();
        let mut status = sample::status();
        status.dropped.insert("events".to_owned(), 3);
        status.servers[1].name = "b\"\\\n".to_owned();
        Measured { status, started: 1e9, max_fds: 7, requests }
    }

    #[test]
    fn every_state_has_its_word() {
        for state in [InstanceState::Starting, InstanceState::Reloading, InstanceState::Stopped] {
            assert!(INSTANCE.contains(&state.to_string().as_str()));
        }
        for state in [ServerState::Starting, ServerState::Idle, ServerState::Backoff, ServerState::Stopped] {
            assert!(SERVER.contains(&state.to_string().as_str()));
        }
        assert!(LEVELS.contains(&Level::Unhealthy.to_string().as_str()));
    }

    #[test]
    fn both_formats_say_the_same() {
        let (open, old) = (text(measured(), Format::OpenMetrics), text(measured(), Format::Classic));
        let samples = |text: &str| text.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(samples(&open), samples(&old));
        assert!(open.ends_with("# EOF\n") && !old.contains("EOF"));
        for line in [
            "mcpdaemon_build_info{version=\"0\"} 1",
            "mcpdaemon_state{state=\"ready\"} 1.0",
            "mcpdaemon_state{state=\"draining\"} 0.0",
            "mcpdaemon_server_health{server=\"a\",level=\"healthy\"} 1.0",
            "mcpdaemon_server_restarts_total{server=\"b\\\"\\\\\\n\"} 0.0",
            "mcpdaemon_dropped_total{reason=\"events\"} 3.0",
            "mcpdaemon_request_duration_seconds_bucket{le=\"0.000256\",server=\"a\",method=\"tools/call\"} 1",
            "mcpdaemon_request_duration_seconds_bucket{le=\"0.001024\",server=\"a\",method=\"tools/call\"} 2",
            "mcpdaemon_request_duration_seconds_bucket{le=\"268.435456\",server=\"a\",method=\"tools/call\"} 3",
            "mcpdaemon_request_duration_seconds_bucket{le=\"+Inf\",server=\"a\",method=\"tools/call\"} 4",
            "mcpdaemon_request_duration_seconds_count{server=\"a\",method=\"tools/call\"} 4",
            "mcpdaemon_request_errors_total{server=\"a\",method=\"tools/call\"} 1.0",
            "process_max_fds 7.0",
        ] {
            assert!(samples(&old).iter().any(|l| l == line), "{line} is not in\n{old}");
        }
        assert!(open.contains("# TYPE mcpdaemon_dropped counter") && open.contains("# TYPE mcpdaemon_build info"));
        assert!(old.contains("# TYPE mcpdaemon_dropped_total counter"));
        assert!(old.contains("# HELP mcpdaemon_build_info The program.\n# TYPE mcpdaemon_build_info gauge\n"));
    }

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for other in ["", "*/*", "text/plain"] {
            assert_eq!(Format::accepted(other), Format::Classic);
        }
    }
}
