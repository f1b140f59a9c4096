//! Accepts that fail.

use std::io::ErrorKind;

use tinylb_core::ListenerError;

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn a_connection_lost_before_it_was_accepted_costs_the_next_one_no_time() {
    let world = World::new(settings(|_| {}), ["A"]);
    world.apply(&[("a", "A")]).await;
    for kind in [ErrorKind::ConnectionAborted, ErrorKind::Interrupted, ErrorKind::ConnectionReset] {
        world.net.fail_accept(FRONT, kind.into());
    }
    let _client = world.client();
    settle().await;
    assert_eq!(world.log.times("connected"), [0]);
    assert_eq!(world.log.texts("accept failed"), ["accept failed on 0, pause Some(0ns)"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_runs_out_of_something_backs_off_and_goes_on() {
    let world = World::new(settings(|_| {}), ["A"]);
    world.apply(&[("a", "A")]).await;
    for _ in 0..11 {
        world.net.fail_accept(FRONT, ErrorKind::OutOfMemory.into());
    }
    let _client = world.client();
    within(world.log.until("connected", 1)).await;
    let pauses = [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000];
    let times: Vec<u128> = (0..11).map(|n| pauses[..n].iter().sum()).collect();
    assert_eq!(world.log.times("accept failed"), times);
    assert_eq!(world.log.times("connected"), [pauses.iter().sum::<u128>()]);
    // It has recovered: the next failure is a first one.
    world.net.fail_accept(FRONT, ErrorKind::OutOfMemory.into());
    settle().await;
    let last = world.log.texts("accept failed").pop();
    assert_eq!(last.as_deref(), Some("accept failed on 0, pause Some(5ms)"));
}

#[tokio::test(start_paused = true)]
async fn a_dead_listener_ends_alone_and_says_why() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    let _other = world.listen("other");
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    world.net.fail_accept(FRONT, ErrorKind::InvalidInput.into());
    let ended = within(world.front.take().expect("it is there")).await;
    let Err(ListenerError::Dead(error)) = ended else { panic!("{ended:?}") };
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(world.log.texts("accept failed"), ["accept failed on 0, pause None"]);
    assert!(world.net.connect(FRONT).is_err());
    assert_eq!(world.snapshot().listeners, 1);
    talk(&mut client, &mut backend).await;
    let _next = world.client_of("other");
    settle().await;
    assert_eq!(world.load("A"), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_listener_can_be_stopped_while_it_backs_off() {
    let mut world = World::new(settings(|_| {}), []);
    for _ in 0..20 {
        world.net.fail_accept(FRONT, ErrorKind::OutOfMemory.into());
    }
    pass(ms(1500)).await;
    let front = world.front.take().expect("it is there");
    front.stop();
    let began = tokio::time::Instant::now();
    assert!(within(front).await.is_ok());
    assert_eq!(began.elapsed(), ms(0));
    assert!(world.net.connect(FRONT).is_err());
}
