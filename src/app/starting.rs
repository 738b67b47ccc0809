//! Serves the probes while the backends are being opened: the process is alive, and waits for this or that.
//!
//! Invariant: the listeners stay open throughout, so that no connection is refused before the roles take over.

use std::future::Future;
use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use futures_util::future::join_all;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::AdminService;
use crate::http;

/// Answers are immediate here, so a connection that is closed after this time had no request.
const DRAIN_MAX: Duration = Duration::from_millis(500);

/// Runs `opening` to completion and serves each service on its listener meanwhile, after this delay.
pub(super) async fn serve_during<T>(
    listeners: impl IntoIterator<Item = (&TcpListener, Duration, AdminService, http::Limits)>,
    opening: impl Future<Output = T>,
) -> io::Result<T> {
    let opened = CancellationToken::new();
    let serve = |(listener, delay, service, limits): (&TcpListener, Duration, AdminService, http::Limits)| {
        let limits = http::Limits { drain_timeout: DRAIN_MAX.into(), ..limits };
        let service = TowerToHyperService::new(service);
        let (listener, opened) = (duplicate(listener)?, opened.clone());
        Ok(async move {
            if opened.run_until_cancelled(tokio::time::sleep(delay)).await.is_some() {
                http::serve(listener, service, limits, opened.clone()).await;
            }
        })
    };
    let serving = listeners.into_iter().map(serve).collect::<io::Result<Vec<_>>>()?;
    let opening = async {
        let done = opening.await;
        opened.cancel();
        done
    };
    Ok(tokio::join!(opening, join_all(serving)).0)
}

/// Duplicates the socket. It keeps listening when one of the two is closed.
fn duplicate(listener: &TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?))
}
