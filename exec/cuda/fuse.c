#include "exec/cuda/fuse.h"

#include <string.h>

enum { NEEDED_ALIGNMENT = 16, AUX_MULTIPLE = 8 };

/* --- what operators touch --- */

/* Of the kinds that may be in a group or stand between, by operand: m matrix [m, n], w the same but
 * twice as wide for swiglu, v vector [n], g its gradient in fp32, s statistics of m rows, a [m, k],
 * b [n, k], c [m, n] in the type of the product's result. */
static const char *const extents[HLM_NUM_OPS] = {
    [HLM_OP_GEMM] = "abc",
    [HLM_OP_BIAS_ADD] = "vm",
    [HLM_OP_BIAS_GRAD] = "mg",
    [HLM_OP_ACTIVATION_FWD] = "wvm",
    [HLM_OP_ACTIVATION_BWD] = "wvmw",
    [HLM_OP_BIAS_RESIDUAL] = "mvmm",
    [HLM_OP_ADD] = "mmm",
    [HLM_OP_NORM_FWD] = "mvvms",
    [HLM_OP_NORM_BWD] = "mmvsmmgg",
};

struct range {
    uintptr_t first, end;
};

static int64_t element_bytes(const struct hlm_op *op)
{
    return op->dtype == HLM_DTYPE_BF16 ? 2 : 4;
}

static bool makes_weight_gradient(const struct hlm_op *op)
{
    return op->layout == HLM_GEMM_NT && op->accumulate;
}

static bool is_gelu(const struct hlm_op *op)
{
    return op->activation == HLM_ACTIVATION_GELU;
}

static int64_t extent(const struct hlm_op *op, char kind)
{
    switch (kind) {
    case 'a':
        return op->m * op->k * element_bytes(op);
    case 'b':
        return op->n * op->k * element_bytes(op);
    case 'c':
        return op->m * op->n * (makes_weight_gradient(op) ? 4 : element_bytes(op));
    case 'm':
        return op->m * op->n * element_bytes(op);
    case 'w':
        return op->m * op->n * element_bytes(op) * (is_gelu(op) ? 1 : 2);
    case 'v':
        return op->n * element_bytes(op);
    case 's':
        return op->m * 8;
    default:
        return op->n * 4;
    }
}

static struct range range_of(const struct hlm_launch *launch, int operand)
{
    const uintptr_t first = (uintptr_t)launch->operands[operand];
    const int64_t bytes = first == 0 ? 0 : extent(launch->op, extents[launch->op->kind][operand]);
    return (struct range){first, first + (uintptr_t)bytes};
}

static bool overlap(struct range a, struct range b)
{
    return a.first < b.end && b.first < a.end;
}

static int num_operands(const struct hlm_launch *launch)
{
    return (int)strlen(extents[launch->op->kind]);
}

/* Whether one operator could run before the other as well as after it. */
static bool may_swap(const struct hlm_launch *one, const struct hlm_launch *other)
{
    for (int i = 0; i < num_operands(one); i++) {
        for (int j = 0; j < num_operands(other); j++) {
            const bool written = hlm_op_writes(one->op, i) || hlm_op_writes(other->op, j);
            if (written && overlap(range_of(one, i), range_of(other, j))) {
                return false;
            }
        }
    }
    return true;
}

/* --- the walk --- */

struct walk {
    const struct hlm_launch *list;
    int32_t num;
    uint32_t taken, members;
};

/* Whether list[at] may move up to list[0], past all but the members. */
static bool may_move_up(const struct walk *walk, int32_t at)
{
    for (int32_t i = 1; i < at; i++) {
        const bool stays = ((walk->taken | walk->members) >> i & 1U) == 0;
        if (stays && !may_swap(&walk->list[i], &walk->list[at])) {
            return false;
        }
    }
    return true;
}

/* Whether an operator can be walked past: its extents are known, and it does not touch this. */
static bool is_bystander(const struct hlm_launch *launch, struct range of)
{
    if (extents[launch->op->kind] == NULL) {
        return false;
    }
    for (int i = 0; i < num_operands(launch); i++) {
        if (overlap(range_of(launch, i), of)) {
            return false;
        }
    }
    return true;
}

static int32_t reach(const struct walk *walk)
{
    return walk->num < HLM_CUDA_FUSE_WINDOW ? walk->num : HLM_CUDA_FUSE_WINDOW;
}

/* The next operator behind `from` that is no bystander; -1: there is none in reach. */
static int32_t next_user(const struct walk *walk, int32_t from, struct range of)
{
    for (int32_t i = from + 1; i < reach(walk); i++) {
        if ((walk->taken >> i & 1U) == 0 && !is_bystander(&walk->list[i], of)) {
            return i;
        }
    }
    return -1;
}

/* --- the groups --- */

static bool is_aligned(const void *pointer)
{
    return (uintptr_t)pointer % NEEDED_ALIGNMENT == 0;
}

static bool has_supported_type(const struct hlm_op *op)
{
    return op->dtype == HLM_DTYPE_FP32 || op->dtype == HLM_DTYPE_TF32 ||
           op->dtype == HLM_DTYPE_BF16;
}

/* One call reads a, b, the residual and DGELU's aux while it writes the result. */
static bool can_bear(const struct hlm_cuda_group *group)
{
    const struct hlm_launch *product = group->product;
    const bool keeps_aux = group->aux != NULL;
    const struct range own = range_of(product, 2);
    const uintptr_t bytes = own.end - own.first, at = (uintptr_t)group->result;
    const struct range result = {at, at + bytes};
    const uintptr_t aux = (uintptr_t)group->aux, residual = (uintptr_t)group->residual;
    const bool fits = !keeps_aux || (product->op->n % AUX_MULTIPLE == 0 && is_aligned(group->aux) &&
                                     !overlap(result, (struct range){aux, aux + bytes}));
    const bool reads_apart = residual == 0 || residual == at ||
                             !overlap(result, (struct range){residual, residual + bytes});
    return fits && reads_apart && is_aligned(group->result) && is_aligned(group->bias) &&
           !overlap(result, range_of(product, 0)) && !overlap(result, range_of(product, 1));
}

static bool dies(const struct hlm_launch *launch, int operand)
{
    return (launch->dies >> operand & 1U) != 0;
}

/* Fills in what one more operator, which uses the product's result, makes of the group. */
typedef bool add_fn(struct hlm_cuda_group *group, const struct hlm_launch *user);

static bool add_bias(struct hlm_cuda_group *group, const struct hlm_launch *user)
{
    if (group->num_others > 0 || user->operands[1] != group->result) {
        return false;
    }
    group->epilogue = HLM_CUDA_EPILOGUE_BIAS;
    group->bias = user->operands[0];
    return true;
}

static bool add_gelu(struct hlm_cuda_group *group, const struct hlm_launch *user)
{
    const bool biased = group->bias != NULL, keeps = !dies(user, 0);
    const bool brings = user->operands[1] != NULL;
    const bool first = group->num_others == 0 || group->epilogue == HLM_CUDA_EPILOGUE_BIAS;
    if (!first || !is_gelu(user->op) || user->operands[0] != group->result ||
        (brings && (biased || keeps))) {
        return false;
    }
    static const enum hlm_cuda_epilogue by[2][2] = {
        {HLM_CUDA_EPILOGUE_GELU, HLM_CUDA_EPILOGUE_GELU_AUX},
        {HLM_CUDA_EPILOGUE_GELU_BIAS, HLM_CUDA_EPILOGUE_GELU_AUX_BIAS}};
    group->epilogue = by[biased || brings ? 1 : 0][keeps ? 1 : 0];
    group->bias = brings ? user->operands[1] : group->bias;
    group->aux = keeps ? group->result : NULL;
    group->result = user->operands[2];
    return true;
}

static bool add_residual(struct hlm_cuda_group *group, const struct hlm_launch *user)
{
    if (group->num_others > 0 || user->operands[0] != group->result || !dies(user, 0)) {
        return false;
    }
    group->bias = user->operands[1];
    group->epilogue =
        group->bias != NULL ? HLM_CUDA_EPILOGUE_RESIDUAL_BIAS : HLM_CUDA_EPILOGUE_RESIDUAL;
    group->residual = user->operands[2];
    group->result = user->operands[3];
    return true;
}

static bool add_gelu_gradient(struct hlm_cuda_group *group, const struct hlm_launch *user)
{
    if (group->num_others > 0 || !is_gelu(user->op) || user->operands[1] != NULL ||
        user->operands[2] != group->result || !dies(user, 2)) {
        return false;
    }
    group->epilogue = HLM_CUDA_EPILOGUE_DGELU;
    group->aux = user->operands[0];
    group->result = user->operands[3];
    return true;
}

static add_fn *const adders[HLM_NUM_OPS] = {
    [HLM_OP_BIAS_ADD] = add_bias,
    [HLM_OP_ACTIVATION_FWD] = add_gelu,
    [HLM_OP_BIAS_RESIDUAL] = add_residual,
    [HLM_OP_ACTIVATION_BWD] = add_gelu_gradient,
};

/* Adds the next user of the product's result to the group. *at: where the last member stands. */
static bool grow(struct walk *walk, struct hlm_cuda_group *group, int32_t *at)
{
    const struct hlm_op *product = group->product->op;
    const int32_t next = next_user(walk, *at, range_of(group->product, 2));
    if (next < 0 || group->num_others == HLM_CUDA_FUSE_MEMBERS - 1) {
        return false;
    }
    const struct hlm_launch *user = &walk->list[next];
    add_fn *const add = adders[user->op->kind];
    const bool fits = add != NULL && user->op->m == product->m && user->op->n == product->n &&
                      element_bytes(user->op) == element_bytes(product) &&
                      has_supported_type(user->op) && may_move_up(walk, next);
    if (!fits || !add(group, user) || !can_bear(group)) {
        return false;
    }
    group->others[group->num_others++] = user;
    group->members |= 1U << next;
    walk->members = group->members;
    *at = next;
    return true;
}

static int find_from_product(struct walk *walk, struct hlm_cuda_group out[2])
{
    const struct hlm_launch *product = &walk->list[0];
    struct hlm_cuda_group group = {
        .product = product, .members = 1U, .result = product->operands[2]};
    int32_t at = 0;
    if (product->op->accumulate || !grow(walk, &group, &at)) {
        return 0;
    }
    out[0] = group;
    if (!grow(walk, &group, &at)) {
        return 1;
    }
    out[1] = out[0];
    out[0] = group;
    return 2;
}

/* The weight's gradient from the same gradient d [rows, n], which is its factor a [k, m]. */
static bool makes_gradient_of(const struct hlm_launch *product, const struct hlm_launch *bias_grad)
{
    const struct hlm_op *op = product->op;
    return op->kind == HLM_OP_GEMM && makes_weight_gradient(op) &&
           element_bytes(op) == element_bytes(bias_grad->op) &&
           product->operands[0] == bias_grad->operands[0] && op->m == bias_grad->op->n &&
           op->k == bias_grad->op->m;
}

static int find_from_sums(struct walk *walk, struct hlm_cuda_group out[2])
{
    const struct hlm_launch *sums = &walk->list[0];
    for (int32_t i = 1; i < reach(walk); i++) {
        const struct hlm_launch *launch = &walk->list[i];
        if ((walk->taken >> i & 1U) != 0) {
            continue;
        }
        if (extents[launch->op->kind] == NULL) {
            return 0;
        }
        if (!makes_gradient_of(launch, sums)) {
            continue;
        }
        out[0] = (struct hlm_cuda_group){.epilogue = HLM_CUDA_EPILOGUE_BGRAD,
                                         .product = launch,
                                         .others = {sums},
                                         .num_others = 1,
                                         .members = 1U | 1U << i,
                                         .result = launch->operands[2]};
        const bool fits =
            may_swap(sums, launch) && may_move_up(walk, i) && is_aligned(out[0].result);
        return fits ? 1 : 0;
    }
    return 0;
}

static bool has_work(const struct hlm_op *op)
{
    return op->m > 0 && op->n > 0 && has_supported_type(op);
}

int hlm_cuda_fuse_find(const struct hlm_launch *list, int32_t num, uint32_t taken,
                       struct hlm_cuda_group out[2])
{
    struct walk walk = {.list = list, .num = num, .taken = taken, .members = 1U};
    if (!has_work(list[0].op)) {
        return 0;
    }
    switch (list[0].op->kind) {
    case HLM_OP_GEMM:
        return find_from_product(&walk, out);
    case HLM_OP_BIAS_GRAD:
        return find_from_sums(&walk, out);
    default:
        return 0;
    }
}
