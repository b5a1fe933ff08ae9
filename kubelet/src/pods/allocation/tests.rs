use serde_json::json;

use super::*;
use QosClass::{BestEffort, Burstable, Guaranteed};

fn amounts(cpu_milli: i64, memory: i64) -> Amounts {
    Amounts { cpu_milli, memory }
}

#[test]
fn what_grows_needs_room() {
    let (had, others, all) = (amounts(500, 100), amounts(1000, 500), amounts(2000, 1000));
    for (wants, others, expected) in [
        (had, others, Ok(())),
        (amounts(1000, 500), others, Ok(())),
        (amounts(1, 1), amounts(9000, 9000), Ok(())),
        (
            amounts(1001, 100),
            others,
            Err(("Deferred", "resource: cpu, requested: 1001, used: 1000, capacity: 2000")),
        ),
        (
            amounts(500, 501),
            others,
            Err(("Deferred", "resource: memory, requested: 501, used: 500, capacity: 1000")),
        ),
        (
            amounts(2001, 501),
            others,
            Err(("Infeasible", "capacity: cpu, requested: 2001, capacity: 2000")),
        ),
        // Too much was promised before, but not of what grows.
        (amounts(500, 200), amounts(9000, 500), Ok(())),
    ] {
        let decided = decide(had, wants, others, all);
        let expected = expected.map_err(|(reason, message): (&'static str, &str)| Pending {
            reason,
            message: format!("Node didn't have enough {message}"),
        });
        assert_eq!(decided, expected, "{wants:?}");
    }
    assert_eq!(decide(had, amounts(9000, 9000), others, Amounts::allocatable(None)), Ok(()));
}

#[test]
fn a_limit_without_a_request_is_one() {
    let of = |value| -> ResourceRequirements { serde_json::from_value(value).unwrap() };
    let all = [
        of(json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "1", "memory": "1Ki"}})),
        of(json!({"requests": {"memory": "1"}})),
        of(json!({})),
    ];
    assert_eq!(Amounts::of(all.iter().map(|one| (Role::Regular, one))), amounts(250, 1025));
    let node: Node = serde_json::from_value(json!({
        "metadata": {}, "status": {"allocatable": {"cpu": "2", "memory": "1Mi"}}
    }))
    .unwrap();
    assert_eq!(Amounts::allocatable(Some(&node)), amounts(2000, 1 << 20));
}

#[test]
fn an_init_container_counts_beside_the_sidecars_before_it_or_not_at_all() {
    let cpu = |amount: u32| -> ResourceRequirements {
        serde_json::from_value(json!({"requests": {"cpu": format!("{amount}m")}})).unwrap()
    };
    for (all, expected) in [
        (vec![(Role::Init, 500), (Role::Regular, 300)], 500),
        (vec![(Role::Init, 200), (Role::Init, 250), (Role::Regular, 300)], 300),
        (vec![(Role::Sidecar, 100), (Role::Init, 500), (Role::Regular, 300)], 600),
        (vec![(Role::Init, 500), (Role::Sidecar, 100), (Role::Regular, 300)], 500),
        (vec![(Role::Sidecar, 100), (Role::Init, 50), (Role::Regular, 300)], 400),
    ] {
        let asked: Vec<_> = all.iter().map(|(role, amount)| (*role, cpu(*amount))).collect();
        let of = Amounts::of(asked.iter().map(|(role, asked)| (*role, asked)));
        assert_eq!(of, amounts(expected, 0), "{all:?}");
    }
}

#[test]
fn no_two_pods_are_promised_the_same_room() {
    let ledger = Ledger::default();
    let all = amounts(1000, 1000);
    let (one, two) = (
        ledger.enter("one", Burstable, amounts(100, 0)),
        ledger.enter("two", Burstable, amounts(100, 0)),
    );
    let mut freed = ledger.freed();
    one.change(amounts(900, 0), all).unwrap();
    assert!(two.change(amounts(200, 0), all).unwrap_err().is_deferred());
    freed.mark_unchanged();
    drop(one);
    assert!(freed.has_changed().unwrap());
    two.change(amounts(1000, 0), all).unwrap();
}

#[test]
fn what_a_class_asks_for_follows_its_pods() {
    let ledger = Ledger::default();
    let mut asked = ledger.asked();
    let one = ledger.enter("one", Guaranteed, amounts(1000, 1));
    let two = ledger.enter("two", Burstable, amounts(200, 1));
    let three = ledger.enter("three", Burstable, amounts(50, 1));
    let _none = ledger.enter("none", BestEffort, amounts(0, 0));
    let now = |asked: &mut watch::Receiver<Asked>| asked.borrow_and_update().clone();
    let expected: Asked = [(Guaranteed, 1000), (Burstable, 250), (BestEffort, 0)].into();
    assert_eq!(now(&mut asked), expected);
    two.change(amounts(300, 1), amounts(4000, 9)).unwrap();
    assert_eq!(now(&mut asked)[&Burstable], 350);
    // What changes nothing of processors is no news.
    three.change(amounts(50, 2), amounts(4000, 9)).unwrap();
    assert!(!asked.has_changed().unwrap());
    drop((one, three));
    assert_eq!(now(&mut asked), [(Guaranteed, 0), (Burstable, 300), (BestEffort, 0)].into());
}

#[test]
fn pages_are_a_pods_as_long_as_it_is_entered() {
    let pages = |size: &str| {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"hugepages-2Mi": size}}}]},
        }));
        HugePages::of_pod(&pod.unwrap())
    };
    let ledger = Ledger::default();
    let enter = |uid: &str| ledger.enter(uid, Burstable, amounts(1, 1));
    let one = enter("one").with_pages(pages("4Mi"));
    let _two = enter("two").with_pages(pages("2Mi"));
    let _none = enter("none").with_pages(HugePages::default());
    assert_eq!(ledger.pages_of(|_| true), pages("6Mi"));
    assert_eq!(ledger.pages_of(|uid| uid != "one"), pages("2Mi"));
    one.change(amounts(2, 2), amounts(9, 9)).unwrap();
    assert_eq!(ledger.pages_of(|uid| uid == "one"), pages("4Mi"));
    drop(one);
    assert_eq!(ledger.pages_of(|_| true), pages("2Mi"));
}
