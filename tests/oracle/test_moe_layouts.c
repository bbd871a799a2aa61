/* Mixtures of experts: the losses of every layout are those of one rank, whatever the experts get.
 */
#include <stdio.h>

#include "tests/support/check.h"
#include "tests/support/late_backend.h"
#include "tests/support/sweep.h"
#include "tests/support/train.h"

enum { NUM_STEPS = 3 }; /* the third sees what the update did to moments */
static const double tolerance = 1e-5;

struct degrees {
    int32_t dp, tp, pp, ep;
};
static const struct degrees all_degrees[] = {
    {1, 1, 1, 1}, {2, 1, 1, 1}, {2, 1, 1, 2}, {1, 2, 1, 1}, {1, 2, 1, 2}, {1, 1, 2, 1},
    {4, 1, 1, 4}, {4, 1, 1, 2}, {2, 2, 1, 4}, {2, 2, 1, 2}, {2, 1, 2, 2}, {1, 2, 2, 2},
    {1, 1, 4, 1}, {4, 2, 1, 4}, {2, 2, 2, 4}, {2, 2, 2, 2}, {4, 1, 2, 4}, {4, 1, 2, 1}};
/* One of each size and kind, where all of them take too long. */
static const struct degrees few_degrees[] = {{2, 1, 1, 2}, {1, 2, 1, 2}, {4, 1, 1, 4},
                                             {2, 2, 1, 2}, {2, 1, 2, 2}, {2, 2, 2, 4}};
#define NUM(array) (sizeof(array) / sizeof((array)[0]))

/* What is run, and what one rank makes of it. */
struct problem {
    struct hlm_arena *arena;
    struct golden golden; /* its model and sizes; no numbers are used */
    struct train_experts experts;
    train_backend_fn *backend;
    struct train_result reference;
};

static struct train_result run(const struct problem *problem, const struct golden_layout *layout,
                               train_backend_fn *backend)
{
    const struct golden *golden = &problem->golden;
    const struct hlm_plan *plan = golden_plan(problem->arena, &golden->model,
                                              golden->global_batch_size, golden->seq_len, layout);
    assert_non_null(plan);
    return train_run_experts(problem->arena, plan, (uint64_t)golden->seed, NUM_STEPS, backend, NULL,
                             &problem->experts);
}

static struct problem problem_new(void)
{
    struct problem problem = {.arena = hlm_arena_new(),
                              .experts.routing = HLM_ROUTING_TOPK,
                              .backend = hlm_backend_cpu_new};
    problem.golden = *golden_read(problem.arena, "moe");
    return problem;
}

static void find_reference(struct problem *problem)
{
    const struct golden_layout one = {.microbatch_size = problem->golden.global_batch_size};
    problem->reference = run(problem, &one, hlm_backend_cpu_new);
}

static void check_layout(const struct problem *problem, const struct golden_layout *layout)
{
    const struct train_result result = run(problem, layout, problem->backend);
    const struct train_result *one = &problem->reference;
    for (int32_t step = 0; step < NUM_STEPS; step++) {
        const double loss = result.losses[step], norm = result.grad_norms[step];
        if (!(fabs(loss - one->losses[step]) <= tolerance * one->losses[step]) ||
            !(fabs(norm - one->grad_norms[step]) <= 10.0 * tolerance * one->grad_norms[step])) {
            fail_msg("%s: step %d has loss %.9g and norm %.9g, one rank %.9g and %.9g",
                     golden_layout_text(problem->arena, layout), step, loss, norm,
                     one->losses[step], one->grad_norms[step]);
        }
    }
}

static struct golden_layout layout_of(struct degrees degrees)
{
    return (struct golden_layout){.dp = degrees.dp,
                                  .tp = degrees.tp,
                                  .pp = degrees.pp,
                                  .ep = degrees.ep,
                                  .sp = degrees.tp > 1,
                                  .schedule =
                                      degrees.pp > 1 ? HLM_SCHEDULE_1F1B : HLM_SCHEDULE_GPIPE};
}

/* Each with a recompute mode and a ZeRO stage in turn, so that all meet all. */
static void check_degrees(struct problem *problem, const struct degrees *degrees, size_t num)
{
    find_reference(problem);
    for (size_t i = 0; i < num; i++) {
        struct golden_layout layout = layout_of(degrees[i]);
        layout.recompute = (enum hlm_recompute)(i % HLM_NUM_RECOMPUTES);
        layout.zero = (int32_t)(i / 2 % 2);
        check_layout(problem, &layout);
    }
}

static void layouts(void **state)
{
    (void)state;
    struct problem problem = problem_new();
    check_degrees(&problem, all_degrees, NUM(all_degrees));
    for (size_t i = 0; i < NUM(few_degrees); i++) {
        for (int32_t zero = 0; zero <= 3; zero++) {
            struct golden_layout layout = layout_of(few_degrees[i]);
            layout.zero = zero;
            check_layout(&problem, &layout);
        }
    }
    hlm_arena_free(problem.arena);
}

/* Ranks that share sequences: experts are spread over them as over replicas. */
static void contexts(void **state)
{
    (void)state;
    static const struct golden_layout rows[] = {
        {.cp = 2, .ep = 2},
        {.cp = 2, .dp = 2, .ep = 4, .zero = 1},
        {.cp = 2, .tp = 2, .sp = true, .ep = 2, .recompute = HLM_RECOMPUTE_FULL},
        {.cp = 2, .pp = 2, .dp = 2, .ep = 2, .zero = 3, .schedule = HLM_SCHEDULE_1F1B}};
    struct problem problem = problem_new();
    find_reference(&problem);
    for (size_t i = 0; i < NUM(rows); i++) {
        check_layout(&problem, &rows[i]);
    }
    hlm_arena_free(problem.arena);
}

/* Stages with a tp of their own, the same experts on all. */
static void uneven(void **state)
{
    (void)state;
    static const struct golden_layout rows[] = {
        {.tp = 2, .tp_at = {2, 1}, .sp = true, .pp = 2, .schedule = HLM_SCHEDULE_1F1B},
        {.tp = 2,
         .tp_at = {1, 2},
         .sp = true,
         .pp = 2,
         .dp = 2,
         .ep = 2,
         .zero = 1,
         .schedule = HLM_SCHEDULE_ZB_H1},
        {.tp = 2, .tp_at = {2, 1}, .sp = true, .pp = 2, .dp = 2, .ep = 2, .zero = 3}};
    struct problem problem = problem_new();
    find_reference(&problem);
    for (size_t i = 0; i < NUM(rows); i++) {
        check_layout(&problem, &rows[i]);
    }
    hlm_arena_free(problem.arena);
}

/* Experts cut over tp. */
static void expert_shards(void **state)
{
    (void)state;
    static const struct golden_layout rows[] = {
        {.tp = 2, .etp = 2},
        {.tp = 2, .etp = 2, .dp = 2, .ep = 2, .zero = 1},
        {.tp = 2, .etp = 2, .dp = 2, .recompute = HLM_RECOMPUTE_FULL, .zero = 2},
        {.tp = 2, .etp = 2, .dp = 4, .ep = 2, .recompute = HLM_RECOMPUTE_SELECTIVE, .zero = 3},
        {.tp = 2, .etp = 2, .cp = 2, .ep = 2},
        {.tp = 2, .etp = 2, .pp = 2, .dp = 2, .ep = 2, .schedule = HLM_SCHEDULE_ZB_H1},
        {.tp = 2, .etp = 2, .pp = 2, .tp_at = {1, 2}, .dp = 2, .ep = 2, .zero = 3}};
    struct problem problem = problem_new();
    for (int model = 0; model < 2; model++) {
        find_reference(&problem);
        for (size_t i = 0; i < NUM(rows); i++) {
            struct golden_layout layout = rows[i];
            layout.sp = true;
            check_layout(&problem, &layout);
        }
        problem.golden.model.activation = HLM_ACTIVATION_GELU; /* no gate */
    }
    hlm_arena_free(problem.arena);
}

static void schedules(void **state)
{
    (void)state;
    static const struct golden_layout rows[] = {
        {.pp = 2, .vpp = 2, .schedule = HLM_SCHEDULE_INTERLEAVED},
        {.pp = 2, .vpp = 2, .dp = 2, .ep = 2, .schedule = HLM_SCHEDULE_INTERLEAVED},
        {.pp = 2, .dp = 2, .ep = 2, .schedule = HLM_SCHEDULE_GPIPE, .zero = 1},
        {.pp = 2, .dp = 2, .ep = 2, .schedule = HLM_SCHEDULE_ZB_H1},
        {.pp = 2, .dp = 4, .ep = 2, .schedule = HLM_SCHEDULE_ZB_H1, .zero = 3},
        {.pp = 2,
         .dp = 2,
         .ep = 2,
         .schedule = HLM_SCHEDULE_ZB_H1,
         .recompute = HLM_RECOMPUTE_FULL}};
    struct problem problem = problem_new();
    find_reference(&problem);
    for (size_t i = 0; i < NUM(rows); i++) {
        check_layout(&problem, &rows[i]);
    }
    hlm_arena_free(problem.arena);
}

/* Turns instead of scores: rows of a microbatch are a multiple of the experts. */
static void balanced(void **state)
{
    (void)state;
    struct problem problem = problem_new();
    find_reference(&problem);
    const double by_scores = problem.reference.losses[0];
    problem.experts.routing = HLM_ROUTING_BALANCED;
    check_degrees(&problem, few_degrees, NUM(few_degrees));
    assert_true(fabs(problem.reference.losses[0] - by_scores) > tolerance);
    hlm_arena_free(problem.arena);
}

/* A tp rank has half the rows of a microbatch, too few for all experts: which they are decides. */
static void balanced_over_shards(void **state)
{
    (void)state;
    static const struct degrees degrees[] = {{1, 2, 1, 1}, {1, 2, 1, 2}, {2, 2, 1, 4}};
    struct problem problem = problem_new();
    problem.experts.routing = HLM_ROUTING_BALANCED;
    problem.golden.model.moe.num_experts = 8;
    problem.golden.model.moe.top_k = 1;
    check_degrees(&problem, degrees, NUM(degrees));
    hlm_arena_free(problem.arena);
}

/* A router of zeros: all scores are equal and the first expert gets all rows, one weight of 1 that
 * has no gradient. Its rank's room is full, that of others empty. */
static void one_expert_gets_everything(void **state)
{
    (void)state;
    struct problem problem = problem_new();
    problem.golden.model.moe.top_k = 1;
    problem.experts.cleared = "router.weight";
    check_degrees(&problem, few_degrees, NUM(few_degrees));
    hlm_arena_free(problem.arena);
}

/* The first two of four, with gradients that move the router in the first step. */
static void first_experts_get_everything(void **state)
{
    (void)state;
    struct problem problem = problem_new();
    problem.experts.cleared = "router.weight";
    check_degrees(&problem, few_degrees, NUM(few_degrees));
    hlm_arena_free(problem.arena);
}

/* Every other layer has experts, none is shared, and activations and norms are GPT's. */
static void other_models(void **state)
{
    (void)state;
    struct problem problem = problem_new();
    struct hlm_model *model = &problem.golden.model;
    model->moe.shared_ffn_size = 0;
    model->moe.num_dense_layers = 0;
    model->moe.layer_period = 2;
    model->moe.top_k = 3;
    model->activation = HLM_ACTIVATION_GELU;
    model->norm = HLM_NORM_LAYERNORM;
    model->bias = (struct hlm_model_bias){true, true, true};
    check_degrees(&problem, few_degrees, NUM(few_degrees));
    hlm_arena_free(problem.arena);
}

/* Operators that run late, in memory that the host can't reach. */
static void late(void **state)
{
    (void)state;
    struct problem problem = problem_new();
    problem.backend = sweep_late_backend;
    check_degrees(&problem, few_degrees, NUM(few_degrees));
    hlm_arena_free(problem.arena);
}

/* --- memory --- */

static int64_t allocated(const struct problem *problem, const struct hlm_plan *plan,
                         enum hlm_routing routing)
{
    struct hlm_err err;
    struct hlm_backend *backend = NULL;
    struct hlm_state *made = NULL;
    check_ok(hlm_backend_cpu_new(&backend, &err), &err);
    check_ok(hlm_state_new_routed(problem->arena, plan, 0, backend, 1, routing, &made, &err), &err);
    const int64_t bytes = made->allocated_bytes;
    hlm_state_free(made);
    hlm_backend_free(backend);
    return bytes;
}

/* Even experts need what is predicted; room for whatever may come needs more with ep only. */
static void room_for_all_rows(void **state)
{
    (void)state;
    struct problem problem = problem_new();
    const struct golden *golden = &problem.golden;
    for (int32_t i = 0; i < 9; i++) {
        const int32_t ep = 1 << i / 3;
        const struct golden_layout layout = {.dp = 4, .ep = ep, .zero = 1 + i % 3};
        const struct hlm_plan *plan = golden_plan(
            problem.arena, &golden->model, golden->global_batch_size, golden->seq_len, &layout);
        const struct hlm_stage_memory *memory = &plan->prediction.memory[0];
        const int64_t predicted = memory->peak_bytes - memory->bytes[HLM_MEMORY_FIXED];
        assert_int_equal(allocated(&problem, plan, HLM_ROUTING_BALANCED), predicted);
        if (ep == 1) {
            assert_int_equal(allocated(&problem, plan, HLM_ROUTING_TOPK), predicted);
        } else {
            assert_true(allocated(&problem, plan, HLM_ROUTING_TOPK) > predicted);
        }
    }
    hlm_arena_free(problem.arena);
}

/* --- a backend without operators of experts --- */

static struct hlm_backend_ops without_experts;
static enum hlm_status (*cpu_launch)(struct hlm_queue *, const struct hlm_op *,
                                     void *const operands[HLM_OP_MAX_OPERANDS],
                                     const struct hlm_op_scalars *, struct hlm_err *);

static enum hlm_status refuse_routes(struct hlm_queue *queue, const struct hlm_op *op,
                                     void *const operands[HLM_OP_MAX_OPERANDS],
                                     const struct hlm_op_scalars *scalars, struct hlm_err *err)
{
    return op->kind == HLM_OP_ROUTE_FWD
               ? hlm_fail(err, HLM_ENV, "this backend can't run %s", hlm_op_texts[op->kind])
               : cpu_launch(queue, op, operands, scalars, err);
}

/* Before the first step. */
static void backend_without_experts(void **state)
{
    (void)state;
    struct problem problem = problem_new();
    const struct golden *golden = &problem.golden;
    const struct golden_layout layout = {.microbatch_size = 4};
    const struct hlm_plan *plan = golden_plan(problem.arena, &golden->model,
                                              golden->global_batch_size, golden->seq_len, &layout);
    struct hlm_err err;
    struct hlm_backend *backend = NULL;
    struct hlm_state *made = NULL;
    check_ok(hlm_backend_cpu_new(&backend, &err), &err);
    without_experts = *backend->ops;
    cpu_launch = without_experts.launch;
    without_experts.launch = refuse_routes;
    backend->ops = &without_experts;
    check_fails(hlm_state_new(problem.arena, plan, 0, backend, 1, &made, &err), HLM_ENV, &err,
                "this backend can't run route_fwd");
    hlm_backend_free(backend);
    hlm_arena_free(problem.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts),
        cmocka_unit_test(contexts),
        cmocka_unit_test(schedules),
        cmocka_unit_test(uneven),
        cmocka_unit_test(expert_shards),
        cmocka_unit_test(balanced),
        cmocka_unit_test(balanced_over_shards),
        cmocka_unit_test(one_expert_gets_everything),
        cmocka_unit_test(first_experts_get_everything),
        cmocka_unit_test(other_models),
        cmocka_unit_test(late),
        cmocka_unit_test(room_for_all_rows),
        cmocka_unit_test(backend_without_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
