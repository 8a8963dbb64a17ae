//! Tests over the real programs, one file a topic. They run in temporary folders on ports that the kernel chooses,
//! wait for conditions and never for time, and leave no process behind (checked at the end of each).

mod harness;

mod auth;
mod autobahn;
mod bridge;
mod chaos;
mod children;
mod conformance;
mod ctl;
mod direct;
mod docs;
mod eras;
mod events;
mod exec;
mod files;
mod floors;
mod hostile_clients;
mod hostile_locals;
mod hostile_servers;
mod http;
mod import;
mod inexact_clients;
mod inexact_servers;
mod life;
mod logs;
mod many;
mod matrix;
mod monitor;
mod origins;
mod packaging;
mod page;
mod privileges;
mod probes;
mod real;
mod reload;
mod sharing;
mod start;
mod stop;
mod storm;
mod supervision;
mod systemd;
mod tools;
mod upgrade;
mod watch;
mod websocket;
