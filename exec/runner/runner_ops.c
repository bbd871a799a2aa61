/* The operators of a pass. Those between two collectives make a stretch, which is launched as a
 * list, or put on the queue as a graph. */
#include "exec/runner/runner_internal.h"

int32_t hlm_runner_group_size(const struct hlm_runner *runner, enum hlm_group group)
{
    return hlm_layout_group_size(&runner->state->strategy, group);
}

/* --- stretches --- */

static enum hlm_status launch_stretch(struct hlm_runner *runner, struct hlm_err *err)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_backend_ops *ops = state->backend->ops;
    const struct hlm_op_scalars scalars = {.loss_scale = runner->loss_scale};
    const struct hlm_runner_pass *pass = &runner->pass;
    if (ops->launch_list != NULL) {
        return ops->launch_list(state->queue, pass->launches, pass->num_launches, &scalars, err);
    }
    for (int32_t i = 0; i < pass->num_launches; i++) {
        HLM_TRY(ops->launch(state->queue, pass->launches[i].op, pass->launches[i].operands,
                            &scalars, err));
    }
    return HLM_OK;
}

static enum hlm_status capture_stretch(struct hlm_runner *runner, struct hlm_graph **out,
                                       struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = runner->state->backend->ops;
    struct hlm_err ended;
    HLM_TRY(ops->capture_begin(runner->state->queue, err));
    const enum hlm_status launched = launch_stretch(runner, err);
    const enum hlm_status status = ops->capture_end(runner->state->queue, out, &ended);
    if (launched == HLM_OK && status != HLM_OK) {
        *err = ended;
    }
    return launched != HLM_OK ? launched : status;
}

/* Captured at the second use: the first may choose algorithms and make room. */
static enum hlm_status replay_stretch(struct hlm_runner *runner, struct hlm_graph **graph,
                                      struct hlm_err *err)
{
    const struct hlm_op_scalars scalars = {.loss_scale = runner->loss_scale};
    if (*graph == NULL) {
        const enum hlm_status status = capture_stretch(runner, graph, err);
        if (status != HLM_OK) {
            hlm_err_prefix(err, "%s as a graph (--graphs off runs it without)",
                           runner->action_text);
            return status;
        }
    }
    return runner->state->backend->ops->graph_launch(*graph, &scalars, err);
}

/* A graph of one operator would save nothing. */
static enum hlm_status end_stretch(struct hlm_runner *runner, struct hlm_err *err)
{
    struct hlm_runner_pass *pass = &runner->pass;
    if (pass->num_launches == 0) {
        return HLM_OK;
    }
    const int32_t stretch = pass->num_stretches++;
    const bool replays = pass->graphs != NULL && pass->graphs->of_stretch != NULL;
    HLM_TRY(replays && pass->num_launches > 1
                ? replay_stretch(runner, &pass->graphs->of_stretch[stretch], err)
                : launch_stretch(runner, err));
    pass->num_launches = 0;
    return HLM_OK;
}

/* --- passes --- */

void hlm_runner_begin_pass(struct hlm_runner *runner, struct hlm_runner_slot *slot,
                           enum hlm_action_kind kind)
{
    struct hlm_runner_pass *pass = &runner->pass;
    HLM_ASSERT((int)kind < HLM_RUNNER_NUM_PASSES);
    HLM_ASSERT(pass->num_launches == 0);
    pass->num_stretches = 0;
    pass->graphs = runner->uses_graphs ? &slot->graphs[kind] : NULL;
}

enum hlm_status hlm_runner_end_pass(struct hlm_runner *runner, struct hlm_err *err)
{
    struct hlm_runner_pass *pass = &runner->pass;
    HLM_TRY(end_stretch(runner, err));
    if (pass->graphs != NULL && pass->graphs->of_stretch == NULL) {
        pass->graphs->num_stretches = pass->num_stretches;
        pass->graphs->of_stretch =
            HLM_ARENA_ARRAY(runner->arena, struct hlm_graph *, pass->num_stretches);
    }
    return HLM_OK;
}

static enum hlm_status run_collective(struct hlm_runner *runner, const struct hlm_op *op,
                                      void *const *operands, struct hlm_err *err)
{
    HLM_TRY(end_stretch(runner, err));
    return op->kind == HLM_OP_ALL_TO_ALL
               ? hlm_exchange_all_to_all(runner->exchange, op, operands, err)
               : hlm_exchange_collective(runner->exchange, op, operands[0], operands[1], err);
}

static enum hlm_status add_op(struct hlm_runner *runner, int32_t block, const struct hlm_op *op,
                              uint32_t dies, const struct hlm_state_binding *binding,
                              struct hlm_err *err)
{
    struct hlm_runner_pass *pass = &runner->pass;
    struct hlm_launch launch = {.op = op, .dies = dies};
    for (int32_t k = 0; k < hlm_op_num_operands(op->kind); k++) {
        launch.operands[k] = op->operands[k] >= 0
                                 ? hlm_state_address(runner->state, block, op->operands[k], binding)
                                 : NULL;
    }
    if (hlm_op_is_collective(op->kind)) {
        return run_collective(runner, op, launch.operands, err);
    }
    HLM_ASSERT(pass->num_launches < pass->max_launches);
    pass->launches[pass->num_launches++] = launch;
    return HLM_OK;
}

enum hlm_status hlm_runner_cut_pass(struct hlm_runner *runner, struct hlm_err *err)
{
    return end_stretch(runner, err);
}

enum hlm_status hlm_runner_ops(struct hlm_runner *runner, int32_t block,
                               const struct hlm_runner_ops *list, unsigned parts,
                               const struct hlm_state_binding *binding, struct hlm_err *err)
{
    HLM_TRY(hlm_runner_open_shards(runner, block, binding, err));
    for (int32_t i = 0; i < list->num; i++) {
        if ((parts & (1U << list->ops[i].part)) != 0) {
            HLM_TRY(add_op(runner, block, &list->ops[i], list->dies != NULL ? list->dies[i] : 0,
                           binding, err));
        }
    }
    return hlm_runner_close_shards(runner, block, binding, err);
}

/* --- life --- */

/* Arranged for lists where the backend takes lists. */
static struct hlm_runner_block block_lists(struct hlm_arena *arena, const struct hlm_block *block,
                                           bool takes_lists)
{
    struct hlm_fusion fusion;
    if (!takes_lists) {
        return (struct hlm_runner_block){.forward = {block->forward, NULL, block->num_forward},
                                         .backward = {block->backward, NULL, block->num_backward}};
    }
    hlm_fusion_init(arena, block, &fusion);
    return (struct hlm_runner_block){
        .forward = {fusion.forward, fusion.forward_dies, fusion.num_forward},
        .backward = {fusion.backward, fusion.backward_dies, fusion.num_backward}};
}

void hlm_runner_new_lists(struct hlm_arena *arena, struct hlm_runner *runner)
{
    const struct hlm_state *state = runner->state;
    const struct hlm_backend_ops *ops = state->backend->ops;
    struct hlm_runner_pass *pass = &runner->pass;
    for (int32_t s = 0; s < state->num_stages; s++) {
        const struct hlm_state_stage *stage = &state->stages[s];
        struct hlm_runner_block *blocks =
            HLM_ARENA_ARRAY(arena, struct hlm_runner_block, stage->num_blocks);
        int32_t most = 0;
        for (int32_t b = 0; b < stage->num_blocks; b++) {
            blocks[b] = block_lists(arena, stage->blocks[b].block, ops->launch_list != NULL);
            most += blocks[b].forward.num + blocks[b].backward.num;
        }
        runner->stages[s].blocks = blocks;
        pass->max_launches = most > pass->max_launches ? most : pass->max_launches;
    }
    pass->launches = HLM_ARENA_ARRAY(arena, struct hlm_launch, pass->max_launches);
    runner->uses_graphs = ops->capture_begin != NULL;
}

void hlm_runner_use_graphs(struct hlm_runner *runner, bool use)
{
    runner->uses_graphs = use && runner->state->backend->ops->capture_begin != NULL;
}

static void free_graphs(const struct hlm_runner *runner, const struct hlm_runner_graphs *graphs)
{
    for (int32_t i = 0; graphs->of_stretch != NULL && i < graphs->num_stretches; i++) {
        runner->state->backend->ops->graph_free(graphs->of_stretch[i]);
    }
}

void hlm_runner_free_graphs(struct hlm_runner *runner)
{
    struct hlm_state *state = runner->state;
    struct hlm_err told_before;
    if (state->backend->ops->graph_free == NULL) {
        return;
    }
    const enum hlm_status status = state->backend->ops->queue_sync(state->queue, &told_before);
    (void)status; /* graphs may be freed behind an error, not while they run */
    for (int32_t s = 0; s < state->num_stages; s++) {
        const struct hlm_runner_stage *stage = &runner->stages[s];
        for (int32_t i = 0; i < stage->state->num_slots; i++) {
            for (int kind = 0; kind < HLM_RUNNER_NUM_PASSES; kind++) {
                free_graphs(runner, &stage->slots[i].graphs[kind]);
            }
        }
    }
}
