/* The launch of a list: groups that one product can do along run as one where that is wanted. */
#include "exec/cuda/fuse.h"
#include "exec/cuda/gemm_lt.h"
#include "exec/cuda/host.h"
#include "exec/cuda/stopwatch.h"

/* The product of a group. The sums of BGRAD go to the scratch: the library overwrites, we add. */
static enum hlm_status product_of(struct hlm_queue *queue, const struct hlm_cuda_group *group,
                                  struct hlm_cuda_product *out, struct hlm_err *err)
{
    const struct hlm_launch *launch = group->product;
    struct hlm_cuda_product product = hlm_cuda_product_of(queue, launch->op, launch->operands);
    product.shape.epilogue = group->epilogue;
    product.result = group->result;
    product.c = group->residual != NULL ? group->residual : group->result;
    product.bias = group->bias;
    product.aux = group->aux;
    if (group->epilogue == HLM_CUDA_EPILOGUE_BGRAD) {
        HLM_TRY(
            hlm_cuda_reserve(queue, &queue->scratch, launch->op->m * (int64_t)sizeof(float), err));
        product.bias = queue->scratch.data;
    }
    *out = product;
    return HLM_OK;
}

/* Adds what BGRAD left in the scratch to the bias's gradient, or to `target`. */
static enum hlm_status add_sums(struct hlm_queue *queue, const struct hlm_cuda_group *group,
                                void *target, struct hlm_err *err)
{
    const struct hlm_op add = {
        .kind = HLM_OP_ADD, .dtype = HLM_DTYPE_FP32, .m = 1, .n = group->product->op->m};
    void *const operands[HLM_OP_MAX_OPERANDS] = {target, queue->scratch.data, target};
    return hlm_cuda_launch(queue, &add, operands, NULL, err);
}

static enum hlm_status run_group(struct hlm_queue *queue, const struct hlm_cuda_group *group,
                                 const struct hlm_cuda_lt_plan *plan,
                                 const struct hlm_cuda_product *product, struct hlm_err *err)
{
    HLM_TRY(hlm_cuda_lt_run(queue->backend->lt, plan, product, err));
    return group->epilogue == HLM_CUDA_EPILOGUE_BGRAD
               ? add_sums(queue, group, group->others[0]->operands[1], err)
               : HLM_OK;
}

/* --- is one call faster? --- */

/* Operators that are timed on memory of nobody; what they read is where it will be. */
struct timing {
    struct hlm_queue *queue;
    const struct hlm_cuda_group *group;
    const struct hlm_launch *launch;
    struct hlm_cuda_stopwatch watch;
    void *memory; /* a matrix of fp32 numbers as large as the product's */
};

static bool run_apart(void *context)
{
    const struct timing *timing = context;
    const struct hlm_launch *launch = timing->launch;
    struct hlm_err ignored;
    void *operands[HLM_OP_MAX_OPERANDS];
    for (int i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        const bool written =
            i < hlm_op_num_operands(launch->op->kind) && hlm_op_writes(launch->op, i);
        operands[i] = written && launch->operands[i] != NULL ? timing->memory : launch->operands[i];
    }
    return hlm_cuda_launch(timing->queue, launch->op, operands, NULL, &ignored) == HLM_OK;
}

static bool run_sums(void *context)
{
    const struct timing *timing = context;
    struct hlm_err ignored;
    return add_sums(timing->queue, timing->group, timing->memory, &ignored) == HLM_OK;
}

/* How much longer the others take apart than what is left of them behind the one call. Negative
 * where that can't be told. */
static double saved_by_others(struct timing *timing)
{
    const struct hlm_cuda_group *group = timing->group;
    double saved_s = 0.0;
    for (int i = 0; i < group->num_others; i++) {
        timing->launch = group->others[i];
        const double seconds = hlm_cuda_stopwatch_run(&timing->watch, run_apart, timing);
        if (seconds < 0.0) {
            return -1.0;
        }
        saved_s += seconds;
    }
    return group->epilogue == HLM_CUDA_EPILOGUE_BGRAD
               ? saved_s - hlm_cuda_stopwatch_run(&timing->watch, run_sums, timing)
               : saved_s;
}

static double time_others(struct hlm_queue *queue, const struct hlm_cuda_group *group)
{
    const struct hlm_op *op = group->product->op;
    const int64_t rows = op->k > op->m ? op->k : op->m;
    struct timing timing = {.queue = queue, .group = group};
    const bool ready =
        hlm_cuda_stopwatch_init(&timing.watch, queue->stream) &&
        cudaMalloc(&timing.memory, (size_t)(rows * op->n) * sizeof(float)) == cudaSuccess;
    (void)cudaGetLastError();
    const double saved_s = ready ? saved_by_others(&timing) : -1.0;
    cudaFree(timing.memory);
    hlm_cuda_stopwatch_release(&timing.watch);
    return saved_s;
}

/* Products that were not timed have a time of 0. */
static enum hlm_status judge(struct hlm_queue *queue, const struct hlm_cuda_group *group,
                             struct hlm_cuda_lt_plan *plan, struct hlm_err *err)
{
    const struct hlm_cuda_product alone =
        hlm_cuda_product_of(queue, group->product->op, group->product->operands);
    struct hlm_cuda_lt_plan *plain = NULL;
    HLM_TRY(hlm_cuda_lt_find(queue->backend->lt, &alone, &plain, err));
    const double fused_s = plan->choice.time_s, plain_s = plain->choice.time_s;
    const double others_s = fused_s > 0.0 && plain_s > 0.0 ? time_others(queue, group) : -1.0;
    plan->choice.fused = others_s >= 0.0 && fused_s < plain_s + others_s;
    plan->judged = true;
    return HLM_OK;
}

/* --- the list --- */

static enum hlm_status wants(struct hlm_queue *queue, const struct hlm_cuda_group *group,
                             struct hlm_cuda_lt_plan *plan, bool *out, struct hlm_err *err)
{
    if (queue->backend->fuse == HLM_CUDA_FUSE_ALWAYS) {
        plan->choice.fused = plan->works;
        plan->judged = true;
    }
    if (!plan->judged) {
        HLM_TRY(hlm_cuda_outside_capture(queue, "a first choice", err));
        HLM_TRY(judge(queue, group, plan, err));
    }
    *out = plan->works && plan->choice.fused;
    return HLM_OK;
}

/* *ran: the members, 0 where they are better apart. */
static enum hlm_status try_group(struct hlm_queue *queue, const struct hlm_cuda_group *group,
                                 uint32_t *ran, struct hlm_err *err)
{
    struct hlm_cuda_product product;
    struct hlm_cuda_lt_plan *plan = NULL;
    bool wanted = false;
    *ran = 0;
    HLM_TRY(product_of(queue, group, &product, err));
    HLM_TRY(hlm_cuda_lt_find(queue->backend->lt, &product, &plan, err));
    HLM_TRY(wants(queue, group, plan, &wanted, err));
    if (wanted) {
        HLM_TRY(product_of(queue, group, &product, err)); /* judging may have moved the scratch */
        HLM_TRY(run_group(queue, group, plan, &product, err));
        *ran = group->members;
    }
    return HLM_OK;
}

static bool may_fuse(const struct hlm_cuda_backend *backend)
{
    return backend->fuse == HLM_CUDA_FUSE_ALWAYS ||
           (backend->fuse == HLM_CUDA_FUSE_BY_TIME && hlm_cuda_lt_is_timed(backend->lt));
}

static enum hlm_status launch_first(struct hlm_queue *queue, const struct hlm_launch *list,
                                    int32_t num, const struct hlm_op_scalars *scalars,
                                    uint32_t *ran, struct hlm_err *err)
{
    struct hlm_cuda_group groups[2];
    const int num_groups =
        may_fuse(queue->backend) ? hlm_cuda_fuse_find(list, num, *ran, groups) : 0;
    for (int i = 0; i < num_groups; i++) {
        uint32_t members = 0;
        HLM_TRY(try_group(queue, &groups[i], &members, err));
        if (members != 0) {
            *ran |= members;
            return HLM_OK;
        }
    }
    return hlm_cuda_launch(queue, list[0].op, list[0].operands, scalars, err);
}

enum hlm_status hlm_cuda_launch_list(struct hlm_queue *queue, const struct hlm_launch *list,
                                     int32_t num, const struct hlm_op_scalars *scalars,
                                     struct hlm_err *err)
{
    uint32_t ran = 0;
    for (int32_t i = 0; i < num; i++) {
        if ((ran & 1U) == 0) {
            HLM_TRY(hlm_cuda_note(queue, launch_first(queue, &list[i], num - i, scalars, &ran, err),
                                  err));
        }
        ran >>= 1;
    }
    return HLM_OK;
}
