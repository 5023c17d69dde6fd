//! Starts a whole cluster on this machine, for people: see `tests/cluster`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use vlinders_system_tests::{Cluster, Plan, Role};

/// Between two looks at whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Starts NATS, Redis, Postgres and every role as a process of its own, on free ports of 127.0.0.1.
#[derive(Debug, Parser)]
#[command(name = "tests/cluster")]
struct Args {
    /// Processes that speak HTTP
    #[arg(long, value_name = "N", default_value_t = 2)]
    frontends: usize,
    /// Processes that read prompts
    #[arg(long, value_name = "N", default_value_t = 2)]
    prefill: usize,
    /// Processes that write answers
    #[arg(long, value_name = "N", default_value_t = 2)]
    decode: usize,
    /// Processes that record usage
    #[arg(long, value_name = "N", default_value_t = 1)]
    usage: usize,
    /// Folder of the model to serve [default: the built-in demo model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// What computes
    #[arg(long, value_enum, default_value_t = Backend::Cpu)]
    backend: Backend,
    /// How blocks go from worker to worker
    #[arg(long, value_enum, default_value_t = Transport::Shm)]
    transport: Transport,
    /// `--backend sim`: microseconds of one step
    #[arg(long, value_name = "US", default_value_t = 0)]
    sim_step_us: u64,
    /// Keep the folder of logs and of what processes stored
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Backend {
    Cpu,
    Reference,
    Sim,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Transport {
    Shm,
    Tcp,
}

impl Args {
    fn plan(&self) -> anyhow::Result<Plan> {
        let backend = match self.backend {
            Backend::Cpu => "cpu",
            Backend::Reference => "reference",
            Backend::Sim => "sim",
        };
        let mut plan = Plan::new()
            .with_count(Role::Frontend, self.frontends)
            .with_count(Role::Prefill, self.prefill)
            .with_count(Role::Decode, self.decode)
            .with_count(Role::Usage, self.usage)
            .with_worker_arguments(&[
                "--backend",
                backend,
                "--sim-step-us",
                &self.sim_step_us.to_string(),
            ]);
        plan.transports = match self.transport {
            Transport::Shm => "shm".to_owned(),
            Transport::Tcp => "tcp".to_owned(),
        };
        if let Some(model) = &self.model {
            // Processes run in folders of their own.
            plan = plan.with_variable("MODEL_PATH", &model.canonicalize()?.display().to_string());
        }
        Ok(plan)
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tests/cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    // One thread: processes end with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let plan = args.plan()?;
        let mut cluster = tokio::select! {
            started = Cluster::start(plan) => started?,
            stopped = tokio::signal::ctrl_c() => {
                stopped?;
                return Ok(false);
            }
        };
        introduce(&cluster)?;
        watch(&mut cluster).await?;
        println!("\nstopping: frontends first, then workers, then usage; Ctrl-C again to kill");
        let stopped = tokio::select! {
            stopped = cluster.stop() => stopped,
            again = tokio::signal::ctrl_c() => again.map_err(Into::into).and(Err(anyhow::anyhow!("killed"))),
        };
        match &stopped {
            Ok(()) => println!("all that still ran ended with 0"),
            Err(fault) => println!("not all ended with 0: {fault:#}"),
        }
        if args.keep {
            println!("logs: {}", cluster.keep().display());
        }
        Ok(stopped.is_ok())
    })
}

/// Tells what runs where, and what to do with it.
fn introduce(cluster: &Cluster) -> anyhow::Result<()> {
    println!("nats      {}", cluster.nats.url());
    println!("redis     {}", cluster.redis.url());
    println!(
        "postgres  {} with POSTGRES_PASSWORD={}",
        cluster.postgres.url(),
        cluster.postgres.password()
    );
    for role in [Role::Usage, Role::Prefill, Role::Decode, Role::Frontend] {
        for name in cluster.names(role) {
            println!(
                "{name:<11} {:<28} process {}",
                cluster.url(&name)?,
                cluster.process(&name)?
            );
        }
    }
    println!("\nlogs      {}/*.log", cluster.home().display());
    if let Some(name) = cluster.names(Role::Frontend).first() {
        let url = cluster.url(name)?;
        println!("models    curl {url}/v1/models");
        println!(
            "ask       curl -N {url}/v1/chat/completions -H 'content-type: application/json' -d '{{\"model\":\"{}\",\
             \"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"What is Vlinders?\"}}]}}'",
            cluster.model(name)?
        );
    }
    println!(
        "usage     POSTGRES_PASSWORD={} {} ledger --database-url {}",
        cluster.postgres.password(),
        vlinders_system_tests::program()?.display(),
        cluster.postgres.url()
    );
    println!("kill      kill -9 PROCESS, or kill PROCESS to let it leave in peace");
    println!("one more  {}", cluster.command_line(Role::Decode, "decode-more"));
    println!("\nCtrl-C stops everything");
    Ok(())
}

/// Tells who ended, until Ctrl-C.
async fn watch(cluster: &mut Cluster) -> anyhow::Result<()> {
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            stopped = &mut stop => return Ok(stopped?),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        for (name, status) in cluster.departed() {
            println!("{name} has ended: {status}");
        }
    }
}
