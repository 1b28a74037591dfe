//! What the runtime and the operating system say.

use crate::support::Stack;

#[tokio::test]
async fn runtime_and_process_are_measured() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    ganesh.wait_for_metric("ganesh_runtime_workers", 1.0).await;
    let busy = async |worker| {
        let series = format!("ganesh_runtime_busy_ratio{{worker=\"{worker}\"}}");
        ganesh.metric(&series).await
    };
    let (idlest, mean, busiest) = (
        busy("idlest").await,
        busy("mean").await,
        busy("busiest").await,
    );
    assert!(0.0 <= idlest && idlest <= mean && mean <= busiest && busiest <= 1.0);
    assert!(busiest > 0.0, "it answers us, and pulls");
    let waits = ganesh.metric("ganesh_runtime_cpu_wait_ratio").await;
    assert!((0.0..=1.0).contains(&waits), "{waits}");
    assert!(ganesh.metric("ganesh_runtime_tasks").await >= 10.0);
    // The gauge is read between these two.
    let before = std::fs::read_dir(format!("/proc/{}/fd", ganesh.pid())).unwrap();
    let open = ganesh.metric("process_open_fds").await;
    #[allow(clippy::cast_precision_loss, reason = "few")]
    let before = before.count() as f64;
    assert!((open - before).abs() <= 5.0, "{open} for {before}");
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    let resident = ganesh.resident_bytes() as f64;
    let exported = ganesh.metric("process_resident_memory_bytes").await;
    assert!(
        (exported / resident - 1.0).abs() < 0.3,
        "{exported} for {resident}"
    );
    assert!(ganesh.metric("process_threads").await >= 2.0);
    assert!(ganesh.metric("process_max_fds").await >= open);
}

/// Whole seconds would make a process that needs a hundredth of a processor look idle for
/// minutes.
#[tokio::test]
async fn processor_time_is_not_cut_to_whole_seconds() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    crate::support::eventually("a fraction of a second is seen", || async {
        let seconds = ganesh.metric("process_cpu_seconds_total").await;
        seconds.fract() > 0.0
    })
    .await;
}
