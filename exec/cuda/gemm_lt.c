/* The plans: one per shape, found again by it. */
#include "exec/cuda/gemm_lt.h"

#include <stdlib.h>
#include <string.h>

#include "exec/cuda/gemm_lt_internal.h"

enum { MOST_ALIGNMENT = 16, FIRST_CAPACITY = 64 };

_Static_assert(sizeof(cublasLtMatmulAlgo_t) == HLM_CUDA_ALGORITHM_BYTES, "room for an algorithm");

struct hlm_cuda_lt {
    cublasLtHandle_t handle;
    bool timed;
    struct hlm_cuda_lt_plan **plans;
    int32_t num_plans, capacity;
    struct hlm_cuda_choice *kept; /* handed over, [num_kept] */
    int32_t num_kept;
};

int64_t hlm_cuda_lt_version(void)
{
    return (int64_t)cublasLtGetVersion();
}

static enum hlm_status no_memory(struct hlm_err *err)
{
    return hlm_fail(err, HLM_ENV, "cuda backend: no memory for matrix products");
}

enum hlm_status hlm_cuda_lt_new(bool timed, struct hlm_cuda_lt **out, struct hlm_err *err)
{
    struct hlm_cuda_lt *lt = calloc(1, sizeof *lt);
    if (lt == NULL) {
        return no_memory(err);
    }
    lt->timed = timed;
    const enum hlm_status status =
        hlm_cuda_lt_check(cublasLtCreate(&lt->handle), "cublasLtCreate", err);
    if (status != HLM_OK) {
        free(lt);
        return status;
    }
    *out = lt;
    return HLM_OK;
}

static void plan_free(struct hlm_cuda_lt_plan *plan)
{
    if (plan->description != NULL) {
        hlm_cuda_lt_description_release(plan->description);
        free(plan->description);
    }
    free(plan);
}

void hlm_cuda_lt_free(struct hlm_cuda_lt *lt)
{
    if (lt == NULL) {
        return;
    }
    for (int32_t i = 0; i < lt->num_plans; i++) {
        plan_free(lt->plans[i]);
    }
    free(lt->plans);
    free(lt->kept);
    cublasLtDestroy(lt->handle);
    free(lt);
}

bool hlm_cuda_lt_is_timed(const struct hlm_cuda_lt *lt)
{
    return lt->timed;
}

/* --- shapes --- */

/* The largest power of two up to 16 that divides the addresses: parameters lie back to back in
 * their slab, so theirs may be anything. */
static int32_t alignment_of(const void *pointer, const void *other)
{
    const uintptr_t bits = (uintptr_t)pointer | (uintptr_t)other;
    int32_t alignment = 1;
    while (alignment < MOST_ALIGNMENT && bits % (2 * (uintptr_t)alignment) == 0) {
        alignment *= 2;
    }
    return alignment;
}

static struct hlm_cuda_shape shape_of(const struct hlm_cuda_product *product)
{
    struct hlm_cuda_shape shape = product->shape;
    shape.alignment[0] = alignment_of(product->a, NULL);
    shape.alignment[1] = alignment_of(product->b, NULL);
    shape.alignment[2] = alignment_of(product->c, product->result);
    return shape;
}

static bool is_equal(const struct hlm_cuda_shape *a, const struct hlm_cuda_shape *b)
{
    return a->m == b->m && a->n == b->n && a->k == b->k && a->epilogue == b->epilogue &&
           a->layout == b->layout && a->dtype == b->dtype && a->fp32_result == b->fp32_result &&
           a->accumulate == b->accumulate &&
           memcmp(a->alignment, b->alignment, sizeof a->alignment) == 0;
}

static const struct hlm_cuda_choice *kept_choice(const struct hlm_cuda_lt *lt,
                                                 const struct hlm_cuda_shape *shape)
{
    for (int32_t i = 0; i < lt->num_kept; i++) {
        if (is_equal(&lt->kept[i].shape, shape)) {
            return &lt->kept[i];
        }
    }
    return NULL;
}

/* --- plans --- */

static cublasLtMatmulAlgo_t algorithm_of(const struct hlm_cuda_choice *choice)
{
    cublasLtMatmulAlgo_t algorithm;
    memcpy(&algorithm, choice->algorithm, sizeof algorithm);
    return algorithm;
}

static bool take_kept(const struct hlm_cuda_lt *lt, struct hlm_cuda_lt_plan *plan)
{
    const struct hlm_cuda_choice *kept = kept_choice(lt, &plan->choice.shape);
    if (kept == NULL) {
        return false;
    }
    const cublasLtMatmulAlgo_t algorithm = algorithm_of(kept);
    if (!hlm_cuda_lt_accepts(lt->handle, plan->description, &algorithm)) {
        return false;
    }
    plan->choice = *kept;
    plan->works = plan->judged = true;
    return true;
}

static enum hlm_status choose(const struct hlm_cuda_lt *lt, struct hlm_cuda_lt_plan *plan,
                              const struct hlm_cuda_product *product, struct hlm_err *err)
{
    const struct hlm_cuda_shape *shape = &plan->choice.shape;
    const bool alone = shape->epilogue == HLM_CUDA_EPILOGUE_NONE;
    struct hlm_cuda_lt_candidates candidates = {.num = 0};
    HLM_TRY(hlm_cuda_lt_ask(lt->handle, plan->description, shape, &candidates, err));
    if (candidates.num == 0 && alone) {
        return hlm_fail(err, HLM_ENV,
                        "cuBLASLt has no algorithm for a product of %lld x %lld x %lld",
                        (long long)shape->m, (long long)shape->n, (long long)shape->k);
    }
    plan->works = candidates.num > 0;
    plan->judged = alone || !plan->works;
    const int best = plan->works && lt->timed
                         ? hlm_cuda_lt_fastest(lt->handle, plan->description, product, &candidates,
                                               &plan->choice.time_s)
                         : 0;
    memcpy(plan->choice.algorithm, &candidates.at[best].algo, sizeof plan->choice.algorithm);
    return HLM_OK;
}

static enum hlm_status plan_init(const struct hlm_cuda_lt *lt, struct hlm_cuda_lt_plan *plan,
                                 const struct hlm_cuda_product *product, struct hlm_err *err)
{
    plan->choice.shape = shape_of(product);
    plan->description = calloc(1, sizeof *plan->description);
    if (plan->description == NULL) {
        return no_memory(err);
    }
    HLM_TRY(hlm_cuda_lt_describe(plan->description, product, err));
    return take_kept(lt, plan) ? HLM_OK : choose(lt, plan, product, err);
}

static enum hlm_status reserve_plan(struct hlm_cuda_lt *lt, struct hlm_err *err)
{
    if (lt->num_plans < lt->capacity) {
        return HLM_OK;
    }
    const int32_t capacity = lt->capacity == 0 ? FIRST_CAPACITY : 2 * lt->capacity;
    struct hlm_cuda_lt_plan **plans = realloc(lt->plans, (size_t)capacity * sizeof *plans);
    if (plans == NULL) {
        return no_memory(err);
    }
    lt->plans = plans;
    lt->capacity = capacity;
    return HLM_OK;
}

static enum hlm_status make_plan(struct hlm_cuda_lt *lt, const struct hlm_cuda_product *product,
                                 struct hlm_cuda_lt_plan **out, struct hlm_err *err)
{
    HLM_TRY(reserve_plan(lt, err));
    struct hlm_cuda_lt_plan *plan = calloc(1, sizeof *plan);
    if (plan == NULL) {
        return no_memory(err);
    }
    const enum hlm_status status = plan_init(lt, plan, product, err);
    if (status != HLM_OK) {
        plan_free(plan);
        return status;
    }
    lt->plans[lt->num_plans++] = plan;
    *out = plan;
    return HLM_OK;
}

enum hlm_status hlm_cuda_lt_find(struct hlm_cuda_lt *lt, const struct hlm_cuda_product *product,
                                 struct hlm_cuda_lt_plan **out, struct hlm_err *err)
{
    const struct hlm_cuda_shape shape = shape_of(product);
    for (int32_t i = 0; i < lt->num_plans; i++) {
        if (is_equal(&lt->plans[i]->choice.shape, &shape)) {
            *out = lt->plans[i];
            return HLM_OK;
        }
    }
    if (product->captured) {
        return hlm_fail(err, HLM_FAILED,
                        "a product of %lld x %lld x %lld is captured before its first run",
                        (long long)shape.m, (long long)shape.n, (long long)shape.k);
    }
    return make_plan(lt, product, out, err);
}

enum hlm_status hlm_cuda_lt_run(struct hlm_cuda_lt *lt, const struct hlm_cuda_lt_plan *plan,
                                const struct hlm_cuda_product *product, struct hlm_err *err)
{
    const cublasLtMatmulAlgo_t algorithm = algorithm_of(&plan->choice);
    HLM_TRY(hlm_cuda_lt_point(plan->description, product, err));
    return hlm_cuda_lt_check(hlm_cuda_lt_call(lt->handle, plan->description, product, &algorithm),
                             "cublasLtMatmul", err);
}

enum hlm_status hlm_cuda_lt_multiply(struct hlm_cuda_lt *lt, const struct hlm_cuda_product *product,
                                     struct hlm_err *err)
{
    const struct hlm_cuda_shape *shape = &product->shape;
    HLM_ASSERT(shape->epilogue == HLM_CUDA_EPILOGUE_NONE);
    if (shape->m == 0 || shape->n == 0) {
        return HLM_OK;
    }
    HLM_ASSERT(shape->k > 0);
    struct hlm_cuda_lt_plan *plan = NULL;
    HLM_TRY(hlm_cuda_lt_find(lt, product, &plan, err));
    return hlm_cuda_lt_run(lt, plan, product, err);
}

/* --- choices --- */

/* Plans that have not been judged say nothing yet, and those without an algorithm nothing. */
void hlm_cuda_lt_choices(const struct hlm_cuda_lt *lt, struct hlm_arena *arena,
                         struct hlm_cuda_choices *out)
{
    struct hlm_cuda_choice *list = HLM_ARENA_ARRAY(arena, struct hlm_cuda_choice, lt->num_plans);
    int32_t num = 0;
    for (int32_t i = 0; i < lt->num_plans; i++) {
        if (lt->plans[i]->works && lt->plans[i]->judged) {
            list[num++] = lt->plans[i]->choice;
        }
    }
    out->list = list;
    out->num = num;
}

enum hlm_status hlm_cuda_lt_use_choices(struct hlm_cuda_lt *lt,
                                        const struct hlm_cuda_choices *choices, struct hlm_err *err)
{
    const size_t num = (size_t)choices->num;
    struct hlm_cuda_choice *kept = calloc(num + 1, sizeof *kept);
    if (kept == NULL) {
        return no_memory(err);
    }
    if (num > 0) {
        memcpy(kept, choices->list, num * sizeof *kept);
    }
    free(lt->kept);
    lt->kept = kept;
    lt->num_kept = choices->num;
    return HLM_OK;
}
