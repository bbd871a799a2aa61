/* Operators and collectives, and the clock that keeps them apart. */
#include <time.h>

#include "exec/runner_internal.h"

static double clock_s(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double hlm_runner_wall_s(void)
{
    return clock_s(CLOCK_MONOTONIC);
}

void hlm_runner_tell(const struct hlm_runner *runner, const char *operation, bool waiting)
{
    if (runner->watch != NULL) {
        const int32_t index = (int32_t)(runner->action - runner->actions->actions);
        runner->watch(runner->watch_context, runner->step, runner->action_texts[index], operation,
                      waiting);
    }
}

/* The same outside of actions. */
void hlm_runner_tell_between(const struct hlm_runner *runner, const char *operation)
{
    if (runner->watch != NULL) {
        runner->watch(runner->watch_context, runner->step, NULL, operation, true);
    }
}

enum hlm_status hlm_runner_comm_begin(struct hlm_runner *runner, double *start_s,
                                      struct hlm_err *err)
{
    HLM_TRY(hlm_compute_clock_pause(&runner->clock, err));
    *start_s = hlm_runner_wall_s();
    return HLM_OK;
}

enum hlm_status hlm_runner_comm_end(struct hlm_runner *runner, double start_s, double *seconds,
                                    struct hlm_err *err)
{
    *seconds += hlm_runner_wall_s() - start_s;
    hlm_runner_tell(runner, NULL, false);
    return hlm_compute_clock_resume(&runner->clock, err);
}

/* --- operators --- */

static enum hlm_wire wire_type(enum hlm_dtype dtype)
{
    return dtype == HLM_DTYPE_FP32 ? HLM_WIRE_F32 : HLM_WIRE_BF16;
}

int32_t hlm_runner_group_size(const struct hlm_runner *runner, enum hlm_group group)
{
    return hlm_layout_group_size(&runner->state->plan->strategy, group);
}

static enum hlm_status call_collective(struct hlm_runner *runner, const struct hlm_op *op, void *in,
                                       void *out, struct hlm_err *err)
{
    const struct hlm_comm_ops *ops = runner->comm->ops;
    const enum hlm_wire type = wire_type(op->dtype);
    const int64_t whole = op->m * op->n;
    const int64_t part = whole / hlm_runner_group_size(runner, op->group);
    switch (op->kind) {
    case HLM_OP_ALL_REDUCE:
        return ops->all_reduce(runner->comm, op->group, in, whole, type, HLM_REDUCE_SUM, err);
    case HLM_OP_ALL_REDUCE_MAX:
        return ops->all_reduce(runner->comm, op->group, in, whole, type, HLM_REDUCE_MAX, err);
    case HLM_OP_ALL_GATHER:
        return ops->all_gather(runner->comm, op->group, in, out, part, type, err);
    case HLM_OP_REDUCE_SCATTER:
        return ops->reduce_scatter(runner->comm, op->group, in, out, part, type, err);
    default:
        return hlm_fail(err, HLM_FAILED, "no transport runs %s", hlm_op_texts[op->kind]);
    }
}

/* Bytes that a collective reads on and writes to this rank. */
static void collective_bytes(const struct hlm_runner *runner, const struct hlm_op *op, int64_t *in,
                             int64_t *out)
{
    const int64_t whole = op->m * op->n * (int64_t)hlm_dtype_bytes(op->dtype);
    const int64_t part = whole / hlm_runner_group_size(runner, op->group);
    *in = op->kind == HLM_OP_ALL_GATHER ? part : whole;
    *out = op->kind == HLM_OP_REDUCE_SCATTER ? part : whole;
}

enum hlm_status hlm_runner_collective(struct hlm_runner *runner, const struct hlm_op *op,
                                      void *const *operands, struct hlm_err *err)
{
    if (hlm_runner_group_size(runner, op->group) == 1 && operands[1] == NULL) {
        return HLM_OK;
    }
    const bool in_place = operands[1] == NULL;
    int64_t in_bytes = 0, out_bytes = 0;
    collective_bytes(runner, op, &in_bytes, &out_bytes);
    double start_s = 0.0;
    hlm_runner_tell(runner, hlm_op_texts[op->kind], true);
    HLM_TRY(hlm_runner_comm_begin(runner, &start_s, err));
    void *in = NULL, *out = NULL;
    HLM_TRY(hlm_hostcopy_in(&runner->host, 0, operands[0], in_bytes, &in, err));
    HLM_TRY(in_place ? HLM_OK
                     : hlm_hostcopy_space(&runner->host, 1, operands[1], out_bytes, &out, err));
    HLM_TRY(call_collective(runner, op, in, out, err));
    HLM_TRY(hlm_hostcopy_out(&runner->host, operands[in_place ? 0 : 1], in_place ? in : out,
                             out_bytes, err));
    return hlm_runner_comm_end(runner, start_s, &runner->event->group_comm_s, err);
}

enum hlm_status hlm_runner_ops(struct hlm_runner *runner, int32_t block, const struct hlm_op *ops,
                               int32_t num_ops, unsigned parts,
                               const struct hlm_state_binding *binding, struct hlm_err *err)
{
    struct hlm_state *state = runner->state;
    const struct hlm_op_scalars scalars = {.loss_scale = runner->loss_scale};
    for (int32_t i = 0; i < num_ops; i++) {
        const struct hlm_op *op = &ops[i];
        if ((parts & (1U << op->part)) == 0) {
            continue;
        }
        void *operands[HLM_OP_MAX_OPERANDS] = {NULL};
        for (int32_t k = 0; k < hlm_op_num_operands(op->kind); k++) {
            operands[k] = op->operands[k] >= 0
                              ? hlm_state_address(state, block, op->operands[k], binding)
                              : NULL;
        }
        HLM_TRY(hlm_op_is_collective(op->kind)
                    ? hlm_runner_collective(runner, op, operands, err)
                    : state->backend->ops->launch(state->queue, op, operands, &scalars, err));
    }
    return HLM_OK;
}
