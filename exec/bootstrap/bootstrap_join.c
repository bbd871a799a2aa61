#include "exec/bootstrap/bootstrap_join.h"

#include <inttypes.h>
#include <stdio.h>

#include "exec/cuda_loader.h"

/* ---- meeting ---- */

static enum hlm_status fail_without_mpi(const char *but, struct hlm_err *err)
{
    return hlm_fail(err, HLM_ENV,
                    "without MPI ranks can only talk over NCCL, with a GPU for each, but %s; CPU "
                    "ranks are started by mpirun, srun --mpi=pmix or hlmplan run itself",
                    but);
}

/* What can be said before anybody waits for anybody. */
static enum hlm_status check_wishes(const struct hlm_join_config *config,
                                    const struct hlm_rank_env *env, struct hlm_err *err)
{
    if (config->transport == HLM_TRANSPORT_NCCL && config->backend == HLM_BACKEND_CHOICE_CPU) {
        return hlm_fail(err, HLM_USAGE,
                        "--transport nccl needs a GPU for each rank, but --backend "
                        "cpu uses none");
    }
    if (env->launcher == HLM_LAUNCHER_NONE || env->has_mpi) {
        return HLM_OK;
    }
    if (config->transport == HLM_TRANSPORT_MPI && env->launcher == HLM_LAUNCHER_SLURM) {
        return hlm_fail(err, HLM_ENV,
                        "--transport mpi: this srun does not join its tasks by PMIx (srun "
                        "--mpi=pmix does, where srun --mpi=list has it)");
    }
    if (config->transport == HLM_TRANSPORT_MPI) {
        return hlm_fail(err, HLM_ENV, "--transport mpi: %s started the ranks, not mpirun",
                        hlm_launcher_texts[env->launcher]);
    }
    return config->backend == HLM_BACKEND_CHOICE_CPU
               ? fail_without_mpi("--backend cpu uses none", err)
               : HLM_OK;
}

static const char *plan_text(struct hlm_arena *arena, const struct hlm_plan *plan)
{
    if (plan == NULL) {
        return "none";
    }
    uint32_t map = 2166136261u; /* FNV-1a, of the rank map, which the digests leave out */
    for (int32_t rank = 0; rank < plan->num_ranks; rank++) {
        map = (map ^ (uint32_t)plan->rank_map[rank]) * 16777619u;
    }
    const struct hlm_plan_digests *digests = &plan->digests;
    return hlm_arena_printf(arena, "%s-%s-%s-%s-%08" PRIx32, digests->model, digests->cluster,
                            digests->strategy, digests->stages, map);
}

static enum hlm_status meet(struct hlm_arena *arena, const struct hlm_join_config *config,
                            const struct hlm_rank_env *env, struct hlm_joined *out,
                            struct hlm_err *err)
{
    const bool over_mpi = env->has_mpi || config->transport == HLM_TRANSPORT_MPI;
    const struct hlm_bootstrap_config bootstrap = {.rank = env->rank,
                                                   .world_size = env->world_size,
                                                   .plan = plan_text(arena, config->plan),
                                                   .settings = config->settings,
                                                   .timeout_s = config->timeout_s};
    if (over_mpi) {
        const struct hlm_comm_config comm = {.strategy = config->strategy,
                                             .timeout_s = config->timeout_s,
                                             .max_bytes = config->max_bytes};
        HLM_TRY(hlm_comm_mpi_new(&comm, &out->mpi, err));
        struct hlm_bootstrap_config of_mpi = bootstrap;
        of_mpi.rank = out->mpi->rank;
        of_mpi.world_size = out->mpi->world_size;
        return hlm_bootstrap_comm_new(&of_mpi, out->mpi, &out->bootstrap, err);
    }
    struct hlm_meeting meeting = {.address = "nowhere", .listener = -1, .run = ""};
    const int64_t wanted = hlm_strategy_world_size(config->strategy);
    if (wanted > 1) {
        HLM_TRY(hlm_rank_env_meeting(arena, env, &meeting, err));
    }
    if (env->world_size != wanted) {
        return hlm_fail(err, HLM_USAGE, "%s started %" PRId32 " rank%s, but the plan has %" PRId64,
                        hlm_launcher_texts[env->launcher], env->world_size,
                        env->world_size == 1 ? "" : "s", wanted);
    }
    return hlm_bootstrap_tcp_new(&bootstrap, &meeting, &out->bootstrap, err);
}

/* ---- choosing ---- */

enum hlm_status hlm_join_transport(struct hlm_arena *arena, const struct hlm_join_config *config,
                                   const struct hlm_placement *placement, bool has_mpi,
                                   enum hlm_transport *out, const char **why, struct hlm_err *err)
{
    const bool wants_gpus = config->backend != HLM_BACKEND_CHOICE_CPU;
    const bool nccl =
        config->transport == HLM_TRANSPORT_NCCL ||
        (config->transport == HLM_TRANSPORT_AUTO && wants_gpus && placement->own_gpus);
    *why = NULL;
    if (nccl && !placement->own_gpus) {
        return hlm_fail(err, HLM_ENV, "--transport nccl: %s", placement->why_shared);
    }
    if (!nccl && !has_mpi) {
        return fail_without_mpi(placement->why_shared, err);
    }
    *out = nccl ? HLM_TRANSPORT_NCCL : HLM_TRANSPORT_MPI;
    if (config->transport == HLM_TRANSPORT_AUTO && nccl) {
        *why = "ranks talk over NCCL, each on a GPU of its own";
    } else if (config->transport == HLM_TRANSPORT_AUTO && placement->all_have_gpus &&
               !placement->own_gpus) {
        *why = hlm_arena_printf(arena, "ranks talk over MPI, since %s", placement->why_shared);
    }
    return HLM_OK;
}

/* The first rank that has no GPU; num_ranks: all have one. */
static int32_t first_without_gpu(const struct hlm_seat *seats, int32_t num_ranks)
{
    int32_t rank = 0;
    while (rank < num_ranks && seats[rank].num_gpus > 0) {
        rank++;
    }
    return rank;
}

/* auto takes GPUs where all ranks have one: a step is as slow as its slowest rank. */
static enum hlm_status make_backend(struct hlm_arena *arena, const struct hlm_join_config *config,
                                    const struct hlm_seat *seats, int32_t num_ranks,
                                    struct hlm_joined *out, struct hlm_err *err)
{
    const int32_t without = first_without_gpu(seats, num_ranks);
    const bool is_auto = config->backend == HLM_BACKEND_CHOICE_AUTO;
    const bool falls_back = is_auto && without < num_ranks;
    /* Where all have GPUs, none may go to the CPU by itself. */
    const enum hlm_backend_choice choice = falls_back ? HLM_BACKEND_CHOICE_CPU
                                           : is_auto  ? HLM_BACKEND_CHOICE_CUDA
                                                      : config->backend;
    HLM_TRY(hlm_backend_choose(arena, choice, out->placement.local_index, &out->chosen, err));
    if (falls_back) {
        out->chosen.why_not_cuda = hlm_arena_printf(arena, "rank %" PRId32 " on %s: %s", without,
                                                    seats[without].host, seats[without].why_no_gpu);
    }
    return HLM_OK;
}

static struct hlm_seat seat_here(const struct hlm_join_config *config,
                                 const struct hlm_rank_env *env)
{
    const struct hlm_cuda_loader as_usual = {0};
    struct hlm_seat seat = hlm_seat_here(env);
    struct hlm_cuda cuda;
    struct hlm_err err;
    if (config->backend == HLM_BACKEND_CHOICE_CPU) {
        return seat;
    }
    if (hlm_cuda_open(&as_usual, &cuda, NULL, &err) == HLM_OK) {
        seat.num_gpus = cuda.num_devices;
    } else {
        snprintf(seat.why_no_gpu, sizeof seat.why_no_gpu, "%.*s", (int)sizeof seat.why_no_gpu - 1,
                 err.text);
    }
    return seat;
}

/* An id of rank 0's NCCL, then every rank's part of the job that it names. */
static enum hlm_status make_nccl(const struct hlm_join_config *config, int32_t rank,
                                 struct hlm_joined *out, struct hlm_err *err)
{
    const struct hlm_cuda_module *cuda = out->chosen.cuda;
    const struct hlm_comm_config comm = {.strategy = config->strategy,
                                         .timeout_s = config->timeout_s,
                                         .max_bytes = config->max_bytes};
    struct hlm_cuda_comm_config nccl = {.comm = &comm, .rank = rank};
    const enum hlm_status made = rank == 0 ? cuda->comm_id(nccl.id, err) : HLM_OK;
    HLM_TRY(hlm_bootstrap_agree(out->bootstrap, made, err));
    HLM_TRY(hlm_bootstrap_broadcast(out->bootstrap, nccl.id, sizeof nccl.id, err));
    const enum hlm_status joined = cuda->comm_new(&nccl, out->chosen.backend, &out->comm, err);
    if (joined != HLM_OK) {
        err->status = HLM_FAILED; /* of this rank alone, whatever it is */
    }
    return joined == HLM_OK ? HLM_OK : HLM_FAILED;
}

static enum hlm_status choose_together(struct hlm_arena *arena,
                                       const struct hlm_join_config *config,
                                       const struct hlm_rank_env *env, struct hlm_joined *out,
                                       struct hlm_err *err)
{
    const int32_t num_ranks = (int32_t)hlm_strategy_world_size(config->strategy);
    const int32_t rank = out->mpi != NULL ? out->mpi->rank : env->rank;
    const struct hlm_seat seat = seat_here(config, env);
    struct hlm_seat *seats = HLM_ARENA_ARRAY(arena, struct hlm_seat, num_ranks);
    HLM_TRY(hlm_bootstrap_all_gather(out->bootstrap, &seat, sizeof seat, seats, err));
    HLM_TRY(hlm_placement_check(arena, config->plan, seats, num_ranks, rank, env->ours,
                                &out->placement, err));
    HLM_TRY(hlm_join_transport(arena, config, &out->placement, out->mpi != NULL, &out->transport,
                               &out->why, err));
    enum hlm_status made = make_backend(arena, config, seats, num_ranks, out, err);
    HLM_TRY(hlm_bootstrap_agree(out->bootstrap, made, err));
    if (out->transport == HLM_TRANSPORT_NCCL) {
        return make_nccl(config, rank, out, err);
    }
    out->comm = out->mpi;
    return HLM_OK;
}

/* ---- the whole ---- */

enum hlm_status hlm_join(struct hlm_arena *arena, const struct hlm_join_config *config,
                         const struct hlm_rank_env *env, struct hlm_joined *out,
                         struct hlm_err *err)
{
    *out = (struct hlm_joined){.comm = NULL};
    HLM_TRY(check_wishes(config, env, err));
    enum hlm_status status = meet(arena, config, env, out, err);
    if (status == HLM_OK) {
        status = choose_together(arena, config, env, out, err);
    }
    /* Wrong places, plans and wishes are verdicts to which all ranks come together. */
    out->all_know = status != HLM_OK && status != HLM_FAILED;
    return status;
}

void hlm_join_abort(struct hlm_joined *joined, const struct hlm_err *failure)
{
    if (joined->all_know) {
        return;
    }
    if (joined->comm != NULL && joined->comm != joined->mpi) {
        joined->comm->ops->abort(joined->comm);
    }
    if (joined->bootstrap != NULL) {
        hlm_bootstrap_abort(joined->bootstrap, failure);
    }
    if (joined->mpi != NULL) {
        joined->mpi->ops->abort(joined->mpi);
    }
}

void hlm_join_release(struct hlm_joined *joined)
{
    if (joined->comm != joined->mpi) {
        hlm_comm_free(joined->comm); /* before the device that it works on */
    }
    hlm_backend_free(joined->chosen.backend);
    hlm_bootstrap_free(joined->bootstrap);
    hlm_comm_free(joined->mpi);
}
