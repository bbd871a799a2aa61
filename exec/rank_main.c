/* hlmplan-rank: executes the ranks of a plan. Started by `hlmplan run` and `hlmplan profile`, or by
 * mpirun and its like; it speaks to its launcher over the control channel and to nobody else. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "exec/backend_choice.h"
#include "exec/bootstrap/bootstrap_join.h"
#include "exec/comm/comm_emulate.h"
#include "exec/comm/comm_queue.h"
#include "exec/cuda_loader.h"
#include "exec/machine.h"
#include "exec/profiler/profiler.h"
#include "exec/profiler/profiler_join.h"
#include "exec/profiler/profiler_link_queue.h"
#include "exec/rank.h"
#include "exec/rank_options.h"

enum { MAX_COLLECTIVE_BYTES = 64 << 20 };

/* --- one rank --- */

struct job {
    const struct hlm_rank_options *options;
    const struct hlm_plan *plan; /* NULL: profile */
    const struct hlm_strategy *strategy;
    enum hlm_transport transport;
    bool over_queue;     /* threads on GPUs: their transport is exec/comm/comm_queue.h */
    const char *warning; /* for the user, NULL: none */
    bool pin;
};

struct rank_thread {
    const struct job *job;
    struct hlm_comm *comm;
    pthread_t thread;
    enum hlm_status status;
    struct hlm_err err;
};

/* An emulated rank is the only one here, whatever its number. */
static bool is_alone(const struct job *job)
{
    return job->options->emulate_rank >= 0;
}

static int32_t place_of(const struct job *job, const struct hlm_comm *comm)
{
    return is_alone(job) ? 0 : comm->rank;
}

/* CPU time does not pass while a rank waits, so virtual time needs no waiting. */
static enum hlm_emulate_delay delay_of(const struct hlm_rank_options *options)
{
    return options->virtual_time ? HLM_EMULATE_NONE
                                 : (enum hlm_emulate_delay)options->emulate_delay;
}

static enum hlm_routing routing_of(const struct hlm_rank_options *options)
{
    return (enum hlm_routing)(HLM_ROUTING_TOPK + options->routing);
}

static enum hlm_record_emulation emulation_of(const struct job *job)
{
    return !is_alone(job)                                    ? HLM_RECORD_ALL_RANKS
           : delay_of(job->options) == HLM_EMULATE_PREDICTED ? HLM_RECORD_WAITED
                                                             : HLM_RECORD_DID_NOT_WAIT;
}

static struct hlm_rank_config rank_config(const struct job *job,
                                          const struct hlm_chosen_backend *chosen)
{
    const struct hlm_rank_options *options = job->options;
    return (struct hlm_rank_config){
        .plan = job->plan,
        .data_path = options->data,
        .seed = (uint64_t)options->seed,
        .num_steps = (int32_t)options->steps,
        .num_warmup_steps = (int32_t)options->warmup,
        .optimizer = hlm_optimizer_default,
        .virtual_time = options->virtual_time,
        .measured_messages = options->virtual_time && options->messages != 0,
        .routing = routing_of(options),
        .without_graphs = options->graphs != 0,
        .timeout_s = options->timeout_s,
        .emulation = emulation_of(job),
        .backend = chosen->name,
        .transport = is_alone(job) ? "emulated" : hlm_transport_texts[job->transport],
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

/* For the user: through the launcher, or where none of ours listens, on stderr. */
static void tell(struct hlm_heartbeat *heartbeat, const char *before, const char *text)
{
    if (text != NULL && heartbeat != NULL) {
        hlm_heartbeat_progress(heartbeat, "%s%s", before, text);
    } else if (text != NULL) {
        fprintf(stderr, "%s%s\n", before, text);
    }
}

static enum hlm_status use_products(struct hlm_arena *arena, const struct job *job,
                                    const struct hlm_comm *comm, struct hlm_heartbeat *heartbeat,
                                    const struct hlm_chosen_backend *chosen, struct hlm_err *err)
{
    const char *why_not = NULL;
    if (job->options->products == NULL) {
        return HLM_OK;
    }
    HLM_TRY(hlm_backend_use_products(arena, chosen, job->options->products, &why_not, err));
    if (place_of(job, comm) == 0) {
        tell(heartbeat, "timing products anew: ", why_not);
    }
    return HLM_OK;
}

/* As the device says on which the plan has this rank; a profile, as the user says. */
static int32_t repeats_of(const struct job *job, const struct hlm_comm *comm)
{
    return job->plan != NULL ? hlm_plan_rank_device(job->plan, comm->rank)->repeat_operators
                             : (int32_t)job->options->repeat_operators;
}

static enum hlm_status repeat_operators(const struct job *job, const struct hlm_comm *comm,
                                        const struct hlm_chosen_backend *chosen,
                                        struct hlm_err *err)
{
    const int32_t times = repeats_of(job, comm);
    if (times > 1 && chosen->cuda != NULL) {
        return hlm_fail(err, HLM_ENV,
                        "rank %d: its device repeats every operator %d times, which --backend cpu "
                        "alone can do",
                        comm->rank, times);
    }
    if (times > 1) {
        hlm_backend_cpu_repeat(chosen->backend, times);
    }
    return HLM_OK;
}

static enum hlm_status run_rank(struct hlm_arena *arena, const struct job *job,
                                struct hlm_comm *comm, struct hlm_heartbeat *heartbeat,
                                const struct hlm_chosen_backend *chosen, struct hlm_err *err)
{
    if (place_of(job, comm) == 0) {
        tell(heartbeat, "running on the CPU: ", chosen->why_not_cuda);
        tell(heartbeat, "", job->warning);
    }
    if (job->options->join != NULL) {
        const struct hlm_profiler_join_config config = {.directory = job->options->profile,
                                                        .parts = job->options->join,
                                                        .quick = job->options->quick};
        return hlm_profiler_join_run(arena, &config, chosen->backend, comm, heartbeat, err);
    }
    HLM_TRY(repeat_operators(job, comm, chosen, err));
    if (job->plan == NULL) {
        const struct hlm_profiler_config config = {.directory = job->options->profile,
                                                   .repeat_operators = repeats_of(job, comm),
                                                   .quick = job->options->quick,
                                                   .cuda = chosen->cuda,
                                                   .cuda_device = chosen->cuda_device,
                                                   .strategy = job->strategy,
                                                   .max_bytes = MAX_COLLECTIVE_BYTES};
        return hlm_profiler_run(arena, &config, chosen->backend, comm, heartbeat, err);
    }
    HLM_TRY(use_products(arena, job, comm, heartbeat, chosen, err));
    const struct hlm_rank_config config = rank_config(job, chosen);
    const struct hlm_measurement *measurement = NULL;
    HLM_TRY(hlm_rank_run(arena, &config, chosen->backend, comm, heartbeat, &measurement, err));
    hlm_heartbeat_set(heartbeat, config.num_steps, NULL, "writing of the measurement", false);
    return write_measurement(arena, job, measurement, err);
}

/* Heartbeat and backend live around the run; a failure is reported before the peers are told to
 * stop. Releases the transport, which works on memory of the backend. */
static enum hlm_status run_with_heartbeat(const struct job *job, struct hlm_comm *comm,
                                          struct hlm_err *err)
{
    struct hlm_heartbeat *heartbeat = NULL;
    struct hlm_chosen_backend chosen = {0};
    struct hlm_arena *arena = hlm_arena_new();
    if (job->pin) {
        hlm_machine_pin(place_of(job, comm));
    }
    enum hlm_status status = hlm_heartbeat_start(place_of(job, comm), &heartbeat, err);
    if (status == HLM_OK) {
        /* Ranks whose transport works on GPUs can't go to the CPU one by one. */
        const enum hlm_backend_choice choice = job->over_queue
                                                   ? HLM_BACKEND_CHOICE_CUDA
                                                   : (enum hlm_backend_choice)job->options->backend;
        status = hlm_backend_choose(arena, choice, place_of(job, comm), &chosen, err);
    }
    if (status == HLM_OK && job->over_queue) {
        status = hlm_comm_queue_use_backend(comm, chosen.backend, err);
    }
    if (status == HLM_OK) {
        status = run_rank(arena, job, comm, heartbeat, &chosen, err);
    }
    if (status != HLM_OK) {
        hlm_heartbeat_report(heartbeat, err);
        comm->ops->abort(comm);
    }
    hlm_comm_free(comm);
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

static struct hlm_comm_config comm_config(const struct hlm_rank_options *options,
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
    HLM_TRY(job->over_queue ? hlm_comm_queue_new(&config, comms, err)
                            : hlm_comm_thread_new(&config, comms, err));
    int32_t started = 0;
    enum hlm_status status = HLM_OK;
    for (; started < world; started++) {
        ranks[started] = (struct rank_thread){.job = job, .comm = comms[started]};
        if (pthread_create(&ranks[started].thread, NULL, thread_main, &ranks[started]) != 0) {
            status = hlm_fail(err, HLM_FAILED, "cannot start a thread for rank %d", started);
            comms[started]->ops->abort(comms[started]);
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
    for (int32_t rank = started; rank < world; rank++) {
        hlm_comm_free(comms[rank]);
    }
    return status;
}

static enum hlm_status run_alone(struct hlm_arena *arena, const struct job *job,
                                 struct hlm_err *err)
{
    const struct hlm_emulate_config config = {.plan = job->plan,
                                              .rank = (int32_t)job->options->emulate_rank,
                                              .seed = (uint64_t)job->options->seed,
                                              .delay = delay_of(job->options)};
    struct hlm_comm *comm = NULL;
    HLM_TRY(hlm_comm_emulate_new(arena, &config, &comm, err));
    return run_with_heartbeat(job, comm, err);
}

/* What must be the same in all processes, as their users have typed it. */
static const char *settings_text(struct hlm_arena *arena, const struct hlm_rank_options *options)
{
    return hlm_arena_printf(
        arena,
        "%lld steps, %lld of them warm-up, seed %lld, --backend %s, "
        "--transport %s, --routing %s%s%s%s%s",
        (long long)options->steps, (long long)options->warmup, (long long)options->seed,
        hlm_backend_choice_texts[options->backend], hlm_transport_texts[options->transport],
        hlm_routing_texts[routing_of(options)], options->virtual_time ? ", virtual time" : "",
        options->messages != 0 ? ", measured messages" : "",
        options->quick ? ", a quick profile" : "",
        options->join != NULL ? ", links between groups" : "");
}

static enum hlm_status join(struct hlm_arena *arena, const struct job *job,
                            const struct hlm_strategy *strategy, const struct hlm_rank_env *env,
                            struct hlm_joined *out, struct hlm_err *err)
{
    const struct hlm_rank_options *options = job->options;
    const struct hlm_join_config config = {.plan = job->plan,
                                           .strategy = strategy,
                                           .settings = settings_text(arena, options),
                                           .backend = (enum hlm_backend_choice)options->backend,
                                           .transport = job->transport,
                                           .timeout_s = options->timeout_s,
                                           .max_bytes = MAX_COLLECTIVE_BYTES};
    return hlm_join(arena, &config, env, out, err);
}

static enum hlm_status run_joined(struct hlm_arena *arena, const struct job *job,
                                  const struct hlm_joined *joined, struct hlm_heartbeat *heartbeat,
                                  struct hlm_err *err)
{
    struct job own = *job;
    own.transport = joined->transport;
    own.warning = joined->placement.warning;
    if (joined->placement.local_size <= hlm_machine_num_cores()) {
        hlm_machine_pin(joined->placement.local_index);
    }
    if (joined->comm->rank == 0) {
        tell(heartbeat, "", joined->why);
    }
    hlm_heartbeat_set(heartbeat, -1, NULL, "starting", false);
    return run_rank(arena, &own, joined->comm, heartbeat, &joined->chosen, err);
}

/* One rank, of those that a launcher has started. */
static enum hlm_status run_process(const struct job *job, const struct hlm_strategy *strategy,
                                   const struct hlm_rank_env *env, struct hlm_err *err)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_heartbeat *heartbeat = NULL;
    struct hlm_joined joined = {0};
    enum hlm_status status = hlm_heartbeat_start(env->rank, &heartbeat, err);
    if (status == HLM_OK) {
        hlm_heartbeat_set(heartbeat, -1, NULL, "the meeting of all ranks", true);
        status = join(arena, job, strategy, env, &joined, err);
    }
    if (status == HLM_OK) {
        status = run_joined(arena, job, &joined, heartbeat, err);
    }
    if (status != HLM_OK) {
        hlm_heartbeat_report(heartbeat, err);
        hlm_join_abort(&joined, err);
    }
    hlm_join_release(&joined);
    hlm_heartbeat_stop(heartbeat, status == HLM_OK);
    hlm_arena_free(arena);
    return status;
}

/* Threads are all on this machine, whatever the plan says. */
static enum hlm_status warn_of_nodes(struct hlm_arena *arena, struct job *job,
                                     const struct hlm_rank_env *env, struct hlm_err *err)
{
    const int32_t num_ranks = job->plan->num_ranks;
    struct hlm_seat *seats = HLM_ARENA_ARRAY(arena, struct hlm_seat, num_ranks);
    struct hlm_placement placement;
    for (int32_t rank = 0; rank < num_ranks; rank++) {
        seats[rank] = hlm_seat_here(env);
        seats[rank].local_rank = rank;
    }
    HLM_TRY(hlm_placement_check(arena, job->plan, seats, num_ranks, 0, true, &placement, err));
    job->warning = placement.warning;
    return HLM_OK;
}

/* GPUs of this machine that the ranks may compute on; where there are none, each rank finds out
 * why.
 */
static int32_t num_gpus(const struct hlm_rank_options *options)
{
    const struct hlm_cuda_loader as_usual = {0};
    struct hlm_cuda cuda;
    struct hlm_err ignored;
    const bool usable = options->backend != HLM_BACKEND_CHOICE_CPU &&
                        hlm_cuda_open(&as_usual, &cuda, NULL, &ignored) == HLM_OK;
    return usable ? cuda.num_devices : 0;
}

/* Each GPU has a rank, so a machine has as many ranks as GPUs. */
static struct hlm_strategy profile_strategy(const struct hlm_rank_options *options)
{
    const int32_t ranks = (int32_t)options->ranks, gpus = num_gpus(options);
    return hlm_profiler_world(ranks, gpus > 0 && gpus < ranks ? gpus : ranks);
}

static enum hlm_status run_here(struct hlm_arena *arena, struct job *job,
                                const struct hlm_strategy *strategy, struct hlm_err *err)
{
    struct hlm_rank_env env;
    const bool auto_transport = job->transport == HLM_TRANSPORT_AUTO;
    if (job->transport == HLM_TRANSPORT_THREAD) {
        env = (struct hlm_rank_env){.world_size = 1, .local_rank = -1};
    } else {
        HLM_TRY(hlm_rank_env_read(&env, err));
    }
    if (job->transport != HLM_TRANSPORT_THREAD &&
        !(auto_transport && env.launcher == HLM_LAUNCHER_NONE)) {
        return run_process(job, strategy, &env, err);
    }
    job->transport = HLM_TRANSPORT_THREAD;
    if (job->plan != NULL) {
        HLM_TRY(warn_of_nodes(arena, job, &env, err));
    }
    job->over_queue = num_gpus(job->options) > 0;
    return run_threads(arena, job, strategy, err);
}

static enum hlm_status count_gpus(struct hlm_err *err)
{
    const struct hlm_cuda_loader as_usual = {0};
    struct hlm_cuda cuda;
    HLM_TRY(hlm_cuda_open(&as_usual, &cuda, NULL, err));
    printf("%d\n", (int)cuda.num_devices);
    return HLM_OK;
}

static enum hlm_status run(struct hlm_arena *arena, const struct hlm_rank_options *options,
                           struct hlm_err *err)
{
    if (options->count_gpus) {
        return count_gpus(err);
    }
    HLM_TRY(hlm_rank_options_check(options, err));
    struct job job = {.options = options, .transport = (enum hlm_transport)options->transport};
    struct hlm_strategy strategy = {0};
    if (options->plan != NULL) {
        HLM_TRY(hlm_plan_read(arena, options->plan, &job.plan, err));
        HLM_TRY(hlm_plan_check_digests(arena, job.plan, options->plan, err));
        strategy = job.plan->strategy;
    } else {
        strategy = profile_strategy(options);
    }
    job.strategy = &strategy;
    if (is_alone(&job)) {
        return run_alone(arena, &job, err);
    }
    job.pin = hlm_strategy_world_size(&strategy) <= hlm_machine_num_cores();
    return run_here(arena, &job, &strategy, err);
}

int main(int argc, char **argv)
{
    struct hlm_arena *arena = hlm_arena_new();
    struct hlm_err err = {0};
    struct hlm_rank_options options;
    bool help = false;
    enum hlm_status status = hlm_opt_parse(arena, &hlm_rank_command, argc - 1,
                                           (const char *const *)argv + 1, &options, &help, &err);
    if (status == HLM_OK && help) {
        hlm_opt_help(stdout, "hlmplan-rank", &hlm_rank_command);
    } else if (status == HLM_OK) {
        status = run(arena, &options, &err);
    }
    if (status != HLM_OK) {
        fprintf(stderr, "hlmplan-rank: %s\n", err.text);
    }
    hlm_arena_free(arena);
    return (int)status;
}
