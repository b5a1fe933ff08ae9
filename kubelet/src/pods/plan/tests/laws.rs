//! What holds of every plan, whatever happens: pods of all shapes, in which containers end when and as
//! chance has it, the sandbox is lost, and the pod is deleted.

use std::collections::BTreeMap;

use super::*;

/// As random as it has to be, and the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }

    fn once_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

fn random_pod(dice: &mut Dice) -> Pod {
    let policy = ["Always", "OnFailure", "Never"][usize::try_from(dice.below(3)).unwrap()];
    let names = ["i0", "+s0", "i1", "+s1", "i2"];
    let names: Vec<&str> = names.into_iter().filter(|_| !dice.once_in(3)).collect();
    let mut value = serde_json::to_value(init::initialized_by(policy, &names)).unwrap();
    let more = json!([{"name": "main", "image": "app:1"}, {"name": "other", "image": "app:1"}]);
    value["spec"]["containers"] = more;
    for list in ["initContainers", "containers"] {
        for container in value["spec"][list].as_array_mut().unwrap() {
            let stays = list == "containers" || container["restartPolicy"] == "Always";
            for hook in ["preStop", "postStart"] {
                if stays && dice.once_in(4) {
                    container["lifecycle"][hook] = json!({"sleep": {"seconds": 1}});
                }
            }
            if stays && dice.once_in(4) {
                container["startupProbe"] = json!({"tcpSocket": {"port": 1}});
            }
        }
    }
    serde_json::from_value(value).unwrap()
}

/// The world that plans are carried out in.
struct World<'a> {
    pod: &'a Pod,
    observed: Observed,
    second: i64,
    /// So often each container was started in the present sandbox and did its work.
    completed: BTreeMap<String, u32>,
    deleted: bool,
}

impl World<'_> {
    fn carry_out(&mut self, action: &PodAction, dice: &mut Dice) {
        if let Some(job) = action.job() {
            assert!(!self.observed.busy.contains(&job), "{action:?} is under way");
        }
        let second = self.second;
        let index = |observed: &Observed, name: &str| {
            observed.containers.iter().position(|record| record.name == name).unwrap()
        };
        match action {
            PodAction::RemoveLostSandbox => {
                self.observed.sandbox = Sandbox::Absent(None);
                self.completed.clear();
                for record in &mut self.observed.containers {
                    record.current.iter_mut().for_each(|attempt| attempt.in_runtime = false);
                }
            }
            PodAction::StartContainer { container, number, restart_delay } => {
                assert!(!self.deleted && !self.observed.finished, "{container}");
                let index = index(&self.observed, container);
                self.check_start(index, *number);
                let name = container.clone();
                let record = &mut self.observed.containers[index];
                let delay = restart_delay.as_secs();
                record.current = Some(attempt(&name, *number, delay, second));
                record.image = Progress::Waiting;
                record.stopping = None;
                record.verdicts = Verdicts::default();
                record.post_start = spec::post_start(self.pod, &name);
            }
            PodAction::CallPostStart { container, .. } => {
                let index = index(&self.observed, container);
                self.observed.containers[index].post_start = match dice.once_in(4) {
                    true => PostStart::Failed,
                    false => PostStart::Done,
                };
            }
            PodAction::StopContainer { container, signal, reason, .. } => {
                let index = index(&self.observed, container);
                self.observed.containers[index].stopping = Some(Stopping {
                    reason: *reason,
                    since: at(second),
                    hook: false,
                    signalled: signal.map(|_| at(second)),
                    killed: None,
                });
            }
            PodAction::SignalContainer { container, .. } => {
                let index = index(&self.observed, container);
                let stopping = self.observed.containers[index].stopping.as_mut().unwrap();
                assert_eq!(stopping.signalled.replace(at(second)), None, "{container} twice");
            }
            PodAction::KillContainer { container, .. } => {
                let index = index(&self.observed, container);
                self.observed.containers[index].stopping.as_mut().unwrap().killed =
                    Some(at(second));
                self.end(index, 137);
            }
            PodAction::Finish => self.observed.finished = true,
            PodAction::Release => self.observed.release = Progress::Done(()),
            PodAction::ReportRemoved => self.observed.removal_reported = true,
            other => provide(&mut self.observed, other),
        }
    }

    fn check_start(&self, index: usize, number: u32) {
        let record = &self.observed.containers[index];
        assert!(record.running().is_none(), "{} runs already", record.name);
        let before = record.current.as_ref().map(|attempt| attempt.labels.number);
        assert!(before.is_none_or(|before| number == before + 1), "{} {before:?}", record.name);
        let completed = self.completed.get(&record.name).copied().unwrap_or(0);
        assert!(record.role != Role::Init || completed == 0, "{} again", record.name);
        if record.role == Role::Regular {
            for init in self.observed.containers.iter().filter(|r| r.role == Role::Init) {
                let done = self.completed.contains_key(&init.name);
                assert!(done, "{} before {}", record.name, init.name);
            }
        }
        let other = |(_, other): (usize, &ContainerRecord)| {
            other.role == Role::Init && other.running().is_some()
        };
        assert!(
            record.role == Role::Sidecar || !self.observed.containers.iter().enumerate().any(other),
            "{} beside an init container",
            record.name
        );
    }

    fn end(&mut self, index: usize, code: i32) {
        let second = self.second;
        let record = &mut self.observed.containers[index];
        let ended = exited(record.current.clone().unwrap(), code, second);
        record.current = Some(ended);
        if record.is_completed() {
            *self.completed.entry(record.name.clone()).or_default() += 1;
        }
    }

    /// Something happens that nobody planned.
    fn live(&mut self, dice: &mut Dice) {
        for index in 0..self.observed.containers.len() {
            let record = &mut self.observed.containers[index];
            if record.running().is_none() {
                continue;
            }
            if dice.once_in(3) {
                record.verdicts.startup = Some(!dice.once_in(4));
            }
            if dice.once_in(10) {
                record.verdicts.liveness = Some(false);
            }
            let obeys = record.stopping.as_ref().is_some_and(|all| all.signalled.is_some());
            let works = record.role == Role::Init;
            if (obeys || works) && dice.once_in(2) || dice.once_in(20) {
                let code = i32::from(dice.once_in(3));
                self.end(index, code);
            }
        }
        if !self.deleted && !self.observed.finished && dice.once_in(40) {
            self.observed.sandbox = Sandbox::Lost(None);
            self.observed.network = Progress::Waiting;
            for index in 0..self.observed.containers.len() {
                if self.observed.containers[index].running().is_some() {
                    self.end(index, 137);
                }
            }
        }
    }
}

fn provide(observed: &mut Observed, action: &PodAction) {
    match action {
        PodAction::CreateSandbox => {
            observed.sandbox = Sandbox::Ready { network_namespace: PathBuf::from("/ns") };
        }
        PodAction::AttachNetwork => observed.network = Progress::Done(vec![]),
        PodAction::PrepareVolumes => observed.volumes = Progress::Done(Volumes::new()),
        PodAction::FetchImage { container } => {
            let mut records = observed.containers.iter_mut();
            let record = records.find(|record| record.name == *container).unwrap();
            record.image = Progress::Done(image());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_container_runs_twice_and_every_pod_comes_to_rest() {
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let pod = random_pod(&mut dice);
        let deleted_at = 30 + i64::try_from(dice.below(60)).unwrap();
        let mut world = World {
            pod: &pod,
            observed: nothing_there(&pod),
            second: 0,
            completed: BTreeMap::new(),
            deleted: false,
        };
        for second in 0..400 {
            world.second = second;
            world.deleted = second >= deleted_at;
            // What can be done at once is done at once, and then there is nothing left to do.
            for round in 0.. {
                assert!(round < 60, "seed {seed}: never at rest");
                let plan = match world.deleted {
                    true => terminate(&pod, &world.observed, 20, second),
                    false => run(&pod, &world.observed, second),
                };
                let due = plan.wake_at.is_none_or(|wake| wake > at(second));
                assert!(due, "seed {seed}: to be woken in the past");
                if plan.actions.is_empty() {
                    break;
                }
                for action in &plan.actions {
                    world.carry_out(action, &mut dice);
                }
            }
            world.live(&mut dice);
        }
        assert!(world.observed.removal_reported, "seed {seed}: {:#?}", world.observed);
    }
}
