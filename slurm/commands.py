"""The sweep verbs for the console command; texts only."""

from typing import Final

from piggyback.shell.cli import Command

COMMANDS: Final = (
    Command(
        name="sweep new",
        summary="write a sweep's file, or a cluster's profiles, to edit",
        options="slurm.options:NewOptions",
        target="slurm.verbs:run_new",
        examples=(
            "  piggyback sweep new smoke\n"
            "  piggyback sweep new decathlon-table8 --out mine.toml\n"
            "  piggyback sweep new profiles"
        ),
    ),
    Command(
        name="sweep plan",
        summary="what a sweep would run, what is there already, and an estimate of the time",
        options="slurm.options:PlanOptions",
        target="slurm.verbs:run_plan",
        examples="  piggyback sweep plan smoke.toml",
    ),
    Command(
        name="sweep submit",
        summary="send what is missing, to Slurm or to a queue on this machine",
        options="slurm.options:SubmitOptions",
        target="slurm.verbs:run_submit",
        examples=(
            "  piggyback sweep submit smoke.toml --cluster local --max-parallel 2 --wait\n"
            "  piggyback sweep submit full.toml --cluster slurm --profile gpu --dry-run"
        ),
    ),
    Command(
        name="sweep retry",
        summary="send runs again that have failed or were stopped",
        options="slurm.options:RetryOptions",
        target="slurm.verbs:run_retry",
        examples="  piggyback sweep retry smoke.toml\n  piggyback sweep retry smoke.toml svhn 'dtd-finetune-*'",
    ),
    Command(
        name="sweep status",
        summary="how the runs of a sweep stand",
        options="slurm.options:StatusOptions",
        target="slurm.verbs:run_status",
        examples="  piggyback sweep status smoke.toml\n  piggyback sweep status smoke.toml svhn --watch",
    ),
    Command(
        name="sweep logs",
        summary="what a run printed",
        options="slurm.options:LogsOptions",
        target="slurm.verbs:run_logs",
        examples="  piggyback sweep logs smoke.toml 'svhn-piggyback-*' -f",
    ),
    Command(
        name="sweep cancel",
        summary="end runs; those under way leave a checkpoint where they can",
        options="slurm.options:CancelOptions",
        target="slurm.verbs:run_cancel",
        examples="  piggyback sweep cancel smoke.toml\n  piggyback sweep cancel smoke.toml finetune",
    ),
    Command(
        name="sweep doctor",
        summary="which promises a cluster keeps, and what to change",
        options="slurm.options:DoctorOptions",
        target="slurm.doctor.verb:run_doctor",
        examples=(
            "  piggyback sweep doctor --folder runs\n"
            "  piggyback sweep doctor --profile gpu --folder /shared/me/runs --no-node-check"
        ),
    ),
)
