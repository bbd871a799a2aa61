/* hlmplan-rank: executes the ranks of a plan. Started by `hlmplan run` and `hlmplan profile`, or by
 * mpirun and its like; it speaks to its launcher over the control channel and to nobody else. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/opt.h"
#include "exec/backend_choice.h"
#include "exec/machine.h"
#include "exec/profiler.h"
#include "exec/rank.h"

static const char *const transport_texts[] = {"thread", "mpi", NULL};
enum { TRANSPORT_THREAD, TRANSPORT_MPI };

struct rank_options {
    const char *plan, *data, *output, *profile;
    int backend, transport;
    int64_t steps, warmup, seed, ranks;
    bool virtual_time, quick;
    double timeout_s;
};

#define AT(member) .offset = offsetof(struct rank_options, member)
static const struct hlm_opt options_table[] = {
    {.name = "plan", .type = HLM_OPT_STRING, AT(plan), .arg = "FILE", .help = "the plan to run"},
    {.name = "profile",
     .type = HLM_OPT_STRING,
     AT(profile),
     .arg = "DIR",
     .help = "measure this machine and write its profile there"},
    {.name = "quick", .type = HLM_OPT_FLAG, AT(quick), .help = "profile in less time"},
    {.name = "ranks",
     .type = HLM_OPT_INT64,
     AT(ranks),
     .def = "1",
     .arg = "N",
     .min = 1,
     .max = 4096,
     .help = "ranks of a profile (a plan says its own)"},
    {.name = "backend",
     .type = HLM_OPT_ENUM,
     AT(backend),
     .def = "auto",
     .arg = "NAME",
     .enums = hlm_backend_choice_texts,
     .help = "where operators run"},
    {.name = "transport",
     .type = HLM_OPT_ENUM,
     AT(transport),
     .def = "thread",
     .arg = "NAME",
     .enums = transport_texts,
     .help = "how ranks talk"},
    {.name = "data",
     .type = HLM_OPT_STRING,
     AT(data),
     .arg = "FILE",
     .help = "text to train on, read as bytes; synthetic tokens when absent"},
    {.name = "steps",
     .type = HLM_OPT_INT64,
     AT(steps),
     .def = "10",
     .arg = "N",
     .min = 1,
     .max = 1e6,
     .help = "training steps, warm-up included"},
    {.name = "warmup",
     .type = HLM_OPT_INT64,
     AT(warmup),
     .def = "2",
     .arg = "N",
     .min = 0,
     .max = 1e6,
     .help = "first steps that do not count"},
    {.name = "seed",
     .type = HLM_OPT_INT64,
     AT(seed),
     .def = "1234",
     .arg = "N",
     .min = 0,
     .max = 9e15,
     .help = "of parameters and data"},
    {.name = "virtual-time",
     .type = HLM_OPT_FLAG,
     AT(virtual_time),
     .help = "measure by CPU time, as if every rank had a core"},
    {.name = "timeout",
     .type = HLM_OPT_DOUBLE,
     AT(timeout_s),
     .def = "60",
     .arg = "SECONDS",
     .min = 0.1,
     .max = 1e6,
     .help = "longest wait for a peer without progress"},
    {.name = "output",
     .letter = 'o',
     .type = HLM_OPT_STRING,
     AT(output),
     .arg = "FILE",
     .help = "where rank 0 writes the measurement"},
    {0}};

static const struct hlm_command command = {
    .name = "",
    .summary = "executes the ranks of a plan",
    .description =
        "Executes the ranks of a plan that `hlmplan plan` made, or measures the machine. "
        "Usually started by `hlmplan run` or `hlmplan profile`.",
    .example = "mpirun -np 4 hlmplan-rank --transport mpi --plan plan.json -o measured.json",
    .opts = options_table,
    .options_size = sizeof(struct rank_options)};

/* --- one rank --- */

struct job {
    const struct rank_options *options;
    const struct hlm_plan *plan; /* NULL: profile */
    bool pin;
};

struct rank_thread {
    const struct job *job;
    struct hlm_comm *comm;
    pthread_t thread;
    enum hlm_status status;
    struct hlm_err err;
};

static struct hlm_rank_config rank_config(const struct job *job,
                                          const struct hlm_chosen_backend *chosen)
{
    const struct rank_options *options = job->options;
    return (struct hlm_rank_config){.plan = job->plan,
                                    .data_path = options->data,
                                    .seed = (uint64_t)options->seed,
                                    .num_steps = (int32_t)options->steps,
                                    .num_warmup_steps = (int32_t)options->warmup,
                                    .optimizer = hlm_optimizer_default,
                                    .virtual_time = options->virtual_time,
                                    .backend = chosen->name,
                                    .transport = transport_texts[options->transport],
                                    .backend_library = chosen->about,
                                    .num_cores = hlm_machine_num_cores()};
}

static enum hlm_status write_measurement(struct hlm_arena *arena, const struct job *job,
                                         const struct hlm_measurement *measurement,
                                         struct hlm_err *err)
{
    if (measurement == NULL || job->options->output == NULL) {
        return HLM_OK;
    }
    struct hlm_measurement dated = *measurement;
    dated.meta.date = hlm_machine_date(arena);
    const char *text = hlm_json_write(arena, &hlm_measurement_table, &dated, false);
    return hlm_file_write(job->options->output, text, strlen(text), err);
}

static enum hlm_status run_rank(struct hlm_arena *arena, const struct job *job,
                                struct hlm_comm *comm, struct hlm_heartbeat *heartbeat,
                                const struct hlm_chosen_backend *chosen, struct hlm_err *err)
{
    if (chosen->why_not_cuda != NULL && comm->rank == 0) {
        hlm_heartbeat_progress(heartbeat, "running on the CPU: %s", chosen->why_not_cuda);
    }
    if (job->plan == NULL) {
        const struct hlm_profiler_config config = {.directory = job->options->profile,
                                                   .quick = job->options->quick};
        return hlm_profiler_run(arena, &config, chosen->backend, comm, heartbeat, err);
    }
    const struct hlm_rank_config config = rank_config(job, chosen);
    const struct hlm_measurement *measurement = NULL;
    HLM_TRY(hlm_rank_run(arena, &config, chosen->backend, comm, heartbeat, &measurement, err));
    hlm_heartbeat_set(heartbeat, config.num_steps, NULL, "writing of the measurement", false);
    return write_measurement(arena, job, measurement, err);
}

/* Which of the ranks of this machine this one is: all of them, where no launcher says otherwise. */
static int32_t local_rank(int32_t rank)
{
    struct hlm_rank_env env;
    return hlm_rank_env_read(&env) ? env.local_rank : rank;
}

/* Heartbeat and backend live around the run; a failure is reported before the peers are told to
 * stop. */
static enum hlm_status run_with_heartbeat(const struct job *job, struct hlm_comm *comm,
                                          struct hlm_err *err)
{
    struct hlm_heartbeat *heartbeat = NULL;
    struct hlm_chosen_backend chosen = {0};
    struct hlm_arena *arena = hlm_arena_new();
    if (job->pin) {
        hlm_machine_pin(comm->rank);
    }
    enum hlm_status status = hlm_heartbeat_start(comm->rank, &heartbeat, err);
    if (status == HLM_OK) {
        status = hlm_backend_choose(arena, (enum hlm_backend_choice)job->options->backend,
                                    local_rank(comm->rank), &chosen, err);
    }
    if (status == HLM_OK) {
        status = run_rank(arena, job, comm, heartbeat, &chosen, err);
    }
    if (status != HLM_OK) {
        hlm_heartbeat_report(heartbeat, err);
        comm->ops->abort(comm);
    }
    hlm_backend_free(chosen.backend);
    hlm_heartbeat_stop(heartbeat, status == HLM_OK);
    hlm_arena_free(arena); /* the heartbeat tells of actions whose texts it holds */
    return status;
}

static void *thread_main(void *argument)
{
    struct rank_thread *rank = argument;
    char name[24];
    snprintf(name, sizeof(name), "rank %d", rank->comm->rank);
    pthread_setname_np(pthread_self(), name); /* what debuggers and top show */
    rank->status = run_with_heartbeat(rank->job, rank->comm, &rank->err);
    return NULL;
}

/* --- all ranks of this process --- */

static struct hlm_strategy profile_strategy(int32_t ranks)
{
    struct hlm_strategy strategy = {.dp = ranks,
                                    .tp = 1,
                                    .pp = 1,
                                    .microbatch_size = 1,
                                    .num_microbatches = 1,
                                    .global_batch_size = ranks,
                                    .seq_len = 1,
                                    .schedule = HLM_SCHEDULE_1F1B};
    hlm_strategy_complete(&strategy);
    return strategy;
}

enum { MAX_COLLECTIVE_BYTES = 64 << 20 };

static struct hlm_comm_config comm_config(const struct rank_options *options,
                                          const struct hlm_strategy *strategy)
{
    return (struct hlm_comm_config){
        .strategy = strategy, .timeout_s = options->timeout_s, .max_bytes = MAX_COLLECTIVE_BYTES};
}

static enum hlm_status run_threads(struct hlm_arena *arena, const struct job *job,
                                   const struct hlm_strategy *strategy, struct hlm_err *err)
{
    const int32_t world = (int32_t)hlm_strategy_world_size(strategy);
    const struct hlm_comm_config config = comm_config(job->options, strategy);
    struct hlm_comm **comms = HLM_ARENA_ARRAY(arena, struct hlm_comm *, world);
    struct rank_thread *ranks = HLM_ARENA_ARRAY(arena, struct rank_thread, world);
    HLM_TRY(hlm_comm_thread_new(&config, comms, err));
    int32_t started = 0;
    enum hlm_status status = HLM_OK;
    for (; started < world; started++) {
        ranks[started] = (struct rank_thread){.job = job, .comm = comms[started]};
        if (pthread_create(&ranks[started].thread, NULL, thread_main, &ranks[started]) != 0) {
            status = hlm_fail(err, HLM_FAILED, "cannot start a thread for rank %d", started);
            comms[0]->ops->abort(comms[0]);
            break;
        }
    }
    for (int32_t rank = 0; rank < started; rank++) {
        pthread_join(ranks[rank].thread, NULL);
        if (status == HLM_OK && ranks[rank].status != HLM_OK) {
            status = ranks[rank].status;
            *err = ranks[rank].err;
        }
    }
    for (int32_t rank = 0; rank < world; rank++) {
        hlm_comm_free(comms[rank]);
    }
    return status;
}

static enum hlm_status run_mpi(const struct job *job, const struct hlm_strategy *strategy,
                               struct hlm_err *err)
{
    const struct hlm_comm_config config = comm_config(job->options, strategy);
    struct hlm_comm *comm = NULL;
    HLM_TRY(hlm_comm_mpi_new(&config, &comm, err));
    const enum hlm_status status = run_with_heartbeat(job, comm, err);
    hlm_comm_free(comm);
    return status;
}

static enum hlm_status check_options(const struct rank_options *options, struct hlm_err *err)
{
    if ((options->plan == NULL) == (options->profile == NULL)) {
        return hlm_fail(err, HLM_USAGE, "expected either --plan FILE or --profile DIR");
    }
    if (options->warmup >= options->steps) {
        return hlm_fail(err, HLM_USAGE, "--warmup %lld leaves none of %lld steps to measure",
                        (long long)options->warmup, (long long)options->steps);
    }
    if (options->profile != NULL && options->backend == HLM_BACKEND_CHOICE_CUDA) {
        return hlm_fail(err, HLM_ENV, "this version profiles CPUs only");
    }
    return HLM_OK;
}

static enum hlm_status run(struct hlm_arena *arena, const struct rank_options *options,
                           struct hlm_err *err)
{
    HLM_TRY(check_options(options, err));
    struct job job = {.options = options};
    struct hlm_strategy strategy = profile_strategy((int32_t)options->ranks);
    if (options->plan != NULL) {
        HLM_TRY(hlm_plan_read(arena, options->plan, &job.plan, err));
        HLM_TRY(hlm_plan_check_digests(arena, job.plan, options->plan, err));
        strategy = job.plan->strategy;
    }
    job.pin = hlm_strategy_world_size(&strategy) <= hlm_machine_num_cores();
    return options->transport == TRANSPORT_MPI ? run_mpi(&job, &strategy, err)
                                               : run_threads(arena, &job, &strategy, err);
}

int main(int argc, char **argv)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err = {0};
    struct rank_options options;
    bool help = false;
    enum hlm_status status = hlm_opt_parse(arena, &command, argc - 1, (const char *const *)argv + 1,
                                           &options, &help, &err);
    if (status == HLM_OK && help) {
        hlm_opt_help(stdout, "hlmplan-rank", &command);
    } else if (status == HLM_OK) {
        status = run(arena, &options, &err);
    }
    if (status != HLM_OK) {
        fprintf(stderr, "hlmplan-rank: %s\n", err.text);
    }
    hlm_arena_free(arena);
    return (int)status;
}
