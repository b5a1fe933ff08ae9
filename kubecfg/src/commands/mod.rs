//! The commands, a file each.

mod apply;
mod delete;
mod describe;
mod exec;
mod get;
mod logs;
mod net;
mod port_forward;
mod scale;
mod target;
mod version;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::args::{Arguments, Command, Net};
use crate::client::connect;

/// Carries out a command line.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { connection, command } = arguments;
    if let Command::Version { client: true } = command {
        version::client()?;
        return Ok(ExitCode::SUCCESS);
    }
    let cluster = connect(&connection).await?;
    match command {
        Command::Apply { files } => {
            let paths = [files.positional, files.flagged].concat();
            return apply::apply(&cluster, &paths, connection.namespace.as_deref()).await;
        }
        Command::Get { select, output, watch, no_headers, show_labels } => {
            let how = get::How { output, watch, headers: !no_headers, labels: show_labels };
            get::get(&cluster, &select, how).await?;
        }
        Command::Describe { select } => describe::describe(&cluster, &select).await?,
        Command::Delete {
            select,
            files,
            all,
            now,
            grace_period,
            no_wait,
            ignore_not_found,
            cascade,
        } => {
            let how = delete::How {
                all,
                grace_period_seconds: if now { Some(1) } else { grace_period },
                wait: !no_wait,
                ignore_not_found,
                cascade,
            };
            return delete::delete(&cluster, &select, &files.flagged, &how).await;
        }
        Command::Logs { target, container, follow, previous, tail, since, timestamps } => {
            let parameters = kube::api::LogParams {
                container,
                follow,
                previous,
                tail_lines: tail,
                since_seconds: since,
                timestamps,
                ..Default::default()
            };
            logs::logs(&cluster, &target, &parameters).await?;
        }
        Command::Exec { target, container, stdin, tty, command } => {
            return exec::exec(&cluster, &target, container, stdin, tty, command).await;
        }
        Command::Attach { target, container, stdin, tty } => {
            return exec::attach(&cluster, &target, container, stdin, tty).await;
        }
        Command::PortForward { target, ports, address } => {
            port_forward::port_forward(&cluster, &target, &ports, address).await?;
        }
        Command::Scale { target, replicas, current_replicas } => {
            scale::scale(&cluster, &target, replicas, current_replicas).await?;
        }
        Command::Net { what: Net::Check { service, image, timeout, start_timeout, output } } => {
            let how = net::How {
                image,
                patience: Duration::from_secs(timeout),
                start: Duration::from_secs(start_timeout),
                json: output.is_some(),
            };
            return net::check(&cluster, service.as_deref(), &how).await;
        }
        Command::Version { .. } => {
            version::client()?;
            version::server(&cluster).await?;
        }
        Command::Completion { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}
