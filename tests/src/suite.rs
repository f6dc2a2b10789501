//! Scenarios and how they are run: named `group::claim::handler`, several at once, filtered like cargo's tests.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::{
    handlers::{CRUN, ENCLAVE_CC, PLAIN_CRUN, Product, RUNC},
    image::{Image, Pushed},
    leak,
    namespace::{self, Unified},
    node::{Node, lock},
    pod::PodSpec,
};

/// Scenarios mostly wait; two cores carry four of them.
const AT_ONCE: usize = 4;

/// How much of containerd's log a failure shows.
const LOG_LINES: usize = 30;
const LOG_WIDTH: usize = 600;

/// A scenario's body.
pub type Body = fn(&Scene) -> Result<()>;

/// A scenario and the handlers it runs under.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    name: &'static str,
    handlers: &'static [&'static str],
    body: Body,
}

impl Scenario {
    /// The same claim under other handlers.
    #[must_use]
    pub const fn only(mut self, handlers: &'static [&'static str]) -> Self {
        self.handlers = handlers;
        self
    }
}

/// A claim about every runtime: proved with runc, then shown for enclave-cc.
#[must_use]
pub const fn shared(name: &'static str, body: Body) -> Scenario {
    Scenario { name, handlers: &[RUNC, ENCLAVE_CC], body }
}

/// A claim about enclave-cc.
#[must_use]
pub const fn enclave(name: &'static str, body: Body) -> Scenario {
    Scenario { name, handlers: &[ENCLAVE_CC], body }
}

/// A claim about one other handler.
#[must_use]
pub const fn under(handler: &'static [&'static str], name: &'static str, body: Body) -> Scenario {
    Scenario { name, handlers: handler, body }
}

/// A running scenario: the node, and what it has to leave no trace of.
#[derive(Debug)]
pub struct Scene {
    node: Arc<Node>,
    name: String,
    handler: &'static str,
    ids: Mutex<Vec<String>>,
    cgroups: Mutex<Vec<String>>,
}

impl Scene {
    /// A scene outside a suite, as the demo's.
    #[must_use]
    pub fn new(node: Arc<Node>, name: &str, handler: &'static str) -> Self {
        Self { node, name: name.into(), handler, ids: Mutex::default(), cgroups: Mutex::default() }
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The scenario's name with the handler.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A repository of the registry that no other scenario uses.
    #[must_use]
    pub fn repository(&self, name: &str) -> String {
        format!("{}/{name}", self.name.replace("::", "/").replace('_', "-"))
    }

    /// Pushes `image` to the scene's repository `name`.
    ///
    /// The image is made unlike that of any other scene: containerd calls all images of one digest by the
    /// first of their names, and the agent would go to another scene's repository.
    ///
    /// # Errors
    /// When the push fails.
    pub fn push(&self, image: &Image, name: &str) -> Result<Pushed> {
        let repository = self.repository(name);
        let image = image.clone().set("Labels", serde_json::json!({ "repository": repository }));
        self.node.push(&image, &repository, "1")
    }

    /// The runtime handler under test.
    #[must_use]
    pub fn handler(&self) -> &'static str {
        self.handler
    }

    /// Whether that is runc's own shim.
    #[must_use]
    pub fn is_runc(&self) -> bool {
        matches!(self.handler, RUNC | PLAIN_CRUN)
    }

    /// The handler that shows how it has to be: the same OCI backend under runc's shim.
    #[must_use]
    pub fn reference_handler(&self) -> &'static str {
        if matches!(self.handler, CRUN | PLAIN_CRUN) { PLAIN_CRUN } else { RUNC }
    }

    /// A pod to be, under the scene's handler.
    #[must_use]
    pub fn pod(&self, name: &str) -> PodSpec<'_> {
        PodSpec::new(self, name)
    }

    /// Has the leak check look for `id`.
    pub fn remember_id(&self, id: &str) {
        lock(&self.ids).push(id.into());
    }

    /// Has the leak check look into `cgroup`.
    pub fn remember_cgroup(&self, cgroup: &str) {
        lock(&self.cgroups).push(cgroup.into());
    }

    /// Fails when something is left of what was remembered.
    ///
    /// # Errors
    /// With the list of it.
    pub fn check_nothing_left(&self) -> Result<()> {
        leak::check_scenario(&lock(&self.ids), &lock(&self.cgroups))
    }
}

/// Runs `scenarios` in a node of their own, as the main function of a test binary.
///
/// With `ENCLAVE_CC_TEST_HANDLERS=runc` in the environment only those of runc run, and the product need not be built.
#[must_use]
pub fn main(unified: Unified, scenarios: &[Scenario]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let selected = select(scenarios, &arguments);
    if arguments.list || selected.is_empty() {
        let idle = |(_, title): (Runnable, String)| Trial::test(title, || Ok(()));
        return libtest_mimic::run(&arguments, selected.into_iter().map(idle).collect()).exit_code();
    }
    match in_a_node(unified, &arguments, selected) {
        Ok(code) => code,
        Err(e) => {
            report(&format!("{e:#}"));
            ExitCode::FAILURE
        }
    }
}

type Runnable = (Body, &'static str);

/// Body, handler and title of what the command line and the environment ask for.
fn select(scenarios: &[Scenario], arguments: &Arguments) -> Vec<(Runnable, String)> {
    let only = std::env::var("ENCLAVE_CC_TEST_HANDLERS").ok();
    let wanted =
        |handler: &str| only.as_deref().is_none_or(|only| only.split(',').any(|name| name == handler));
    let matches =
        |pattern: &str, title: &str| if arguments.exact { title == pattern } else { title.contains(pattern) };
    scenarios
        .iter()
        .flat_map(|scenario| scenario.handlers.iter().map(move |handler| (scenario, *handler)))
        .filter(|(_, handler)| wanted(handler))
        .map(|(scenario, handler)| {
            ((scenario.body, handler), format!("{}::{}", scenario.name, handler.replace('-', "_")))
        })
        .filter(|(_, title)| arguments.filter.as_deref().is_none_or(|filter| matches(filter, title)))
        .filter(|(_, title)| !arguments.skip.iter().any(|skip| matches(skip, title)))
        .collect()
}

fn in_a_node(unified: Unified, arguments: &Arguments, selected: Vec<(Runnable, String)>) -> Result<ExitCode> {
    namespace::enter(unified).context("the node's namespaces")?;
    let product = selected.iter().any(|((_, handler), _)| !matches!(*handler, RUNC | PLAIN_CRUN));
    let product = if product { Some(Product::locate()?) } else { None };
    let node = Arc::new(Node::start(product).context("starting the node")?);
    let trials = selected.into_iter().map(|((body, handler), title)| {
        let node = Arc::clone(&node);
        Trial::test(title.clone(), move || run(&Scene::new(node, &title, handler), body))
    });
    let conclusion = libtest_mimic::run(arguments, trials.collect());
    node.check_nothing_left().context("after the run")?;
    Ok(conclusion.exit_code())
}

fn run(scene: &Scene, body: Body) -> Result<(), Failed> {
    let outcome = body(scene);
    let left = scene.check_nothing_left();
    let error = match (outcome, left) {
        (Ok(()), Ok(())) => return Ok(()),
        (Err(e), Ok(())) | (Ok(()), Err(e)) => e,
        (Err(e), Err(left)) => e.context(format!("and {left:#}")),
    };
    let log = scene.node().containerd_log().unwrap_or_default();
    let ids = lock(&scene.ids).clone();
    let about =
        |line: &&str| ids.iter().any(|id| line.contains(id.as_str())) && !line.contains("level=debug");
    // Whole OCI specs are among the lines.
    let lines: Vec<String> =
        log.lines().filter(about).map(|line| line.chars().take(LOG_WIDTH).collect()).collect();
    let shown = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    Err(Failed::from(format!("{error:#}\ncontainerd about it:\n{shown}")))
}

#[allow(clippy::print_stderr)] // The program's own report to its user.
fn report(text: &str) {
    eprintln!("{text}");
}
