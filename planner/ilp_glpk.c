#include <glpk.h>
#include <math.h>
#include <setjmp.h>

#include "planner/ilp_solve.h"

/* What survives a longjmp out of GLPK, and what its callback keeps. */
struct solve {
    jmp_buf jump;
    const struct hlm_ilp *ilp;
    int32_t max_nodes;
    int32_t num_nodes;
    double bound; /* of the tree, while it exists */
    int return_code, status;
    double objective;
    double *values;
};

static void leave_glpk(void *info)
{
    struct solve *solve = info;
    longjmp(solve->jump, 1);
}

static void watch_tree(glp_tree *tree, void *info)
{
    struct solve *solve = info;
    const int best = glp_ios_best_node(tree);
    if (best != 0) {
        solve->bound = glp_ios_node_bound(tree, best);
    }
    int total = 0;
    glp_ios_tree_size(tree, NULL, NULL, &total);
    solve->num_nodes = total;
    if (solve->max_nodes > 0 && total > solve->max_nodes) {
        glp_ios_terminate(tree);
    }
}

static void load_columns(glp_prob *problem, const struct hlm_ilp *ilp)
{
    glp_add_cols(problem, ilp->num_columns);
    for (int32_t j = 0; j < ilp->num_columns; j++) {
        glp_set_obj_coef(problem, j + 1, ilp->columns[j].cost);
        if (ilp->columns[j].is_binary) {
            glp_set_col_kind(problem, j + 1, GLP_BV);
        } else {
            glp_set_col_bnds(problem, j + 1, GLP_LO, 0.0, 0.0);
        }
    }
}

static void load_rows(glp_prob *problem, const struct hlm_ilp *ilp)
{
    glp_add_rows(problem, ilp->num_rows);
    for (int32_t i = 0; i < ilp->num_rows; i++) {
        const struct hlm_ilp_row *row = &ilp->rows[i];
        const int type = isinf(row->high) ? GLP_LO : row->low < row->high ? GLP_DB : GLP_FX;
        glp_set_row_bnds(problem, i + 1, type, row->low, isinf(row->high) ? 0.0 : row->high);
    }
}

/* GLPK counts from 1. */
static void load_entries(struct hlm_arena *scratch, glp_prob *problem, const struct hlm_ilp *ilp)
{
    int *rows = HLM_ARENA_ARRAY(scratch, int, ilp->num_entries + 1);
    int *columns = HLM_ARENA_ARRAY(scratch, int, ilp->num_entries + 1);
    double *values = HLM_ARENA_ARRAY(scratch, double, ilp->num_entries + 1);
    for (int32_t i = 0; i < ilp->num_entries; i++) {
        rows[i + 1] = ilp->entries[i].row + 1;
        columns[i + 1] = ilp->entries[i].column + 1;
        values[i + 1] = ilp->entries[i].value;
    }
    glp_load_matrix(problem, ilp->num_entries, rows, columns, values);
}

/* Everything that can longjmp: no resource of ours is held in here. */
static void run_glpk(struct hlm_arena *scratch, struct solve *solve)
{
    glp_prob *problem = glp_create_prob();
    glp_set_obj_dir(problem, GLP_MIN);
    load_columns(problem, solve->ilp);
    load_rows(problem, solve->ilp);
    load_entries(scratch, problem, solve->ilp);

    glp_iocp options;
    glp_init_iocp(&options);
    options.msg_lev = GLP_MSG_OFF;
    options.presolve = GLP_ON;
    options.cb_func = watch_tree;
    options.cb_info = solve;
    solve->return_code = glp_intopt(problem, &options);
    solve->status = glp_mip_status(problem);
    if (solve->status == GLP_OPT || solve->status == GLP_FEAS) {
        solve->objective = glp_mip_obj_val(problem);
        for (int32_t j = 0; j < solve->ilp->num_columns; j++) {
            const double value = glp_mip_col_val(problem, j + 1);
            solve->values[j] = solve->ilp->columns[j].is_binary ? round(value) : value;
        }
    }
    glp_delete_prob(problem);
}

static enum hlm_ilp_outcome outcome_of(const struct solve *solve)
{
    if (solve->return_code == 0 && solve->status == GLP_OPT) {
        return HLM_ILP_PROVED;
    }
    if (solve->return_code == GLP_ENOPFS || solve->status == GLP_NOFEAS) {
        return HLM_ILP_NO_BETTER;
    }
    return solve->status == GLP_FEAS ? HLM_ILP_INCUMBENT : HLM_ILP_UNKNOWN;
}

struct hlm_ilp_result hlm_ilp_solve(struct hlm_arena *scratch, const struct hlm_ilp *ilp,
                                    int32_t max_nodes, double *values)
{
    const struct hlm_arena_mark mark = hlm_arena_mark(scratch);
    struct solve solve = {
        .ilp = ilp, .max_nodes = max_nodes, .bound = -(double)INFINITY, .values = values};
    struct hlm_ilp_result result = {.outcome = HLM_ILP_UNKNOWN, .bound = -(double)INFINITY};
    glp_term_out(GLP_OFF);
    if (setjmp(solve.jump) == 0) {
        glp_error_hook(leave_glpk, &solve);
        run_glpk(scratch, &solve);
        glp_error_hook(NULL, NULL);
        result = (struct hlm_ilp_result){.outcome = outcome_of(&solve),
                                         .objective = solve.objective,
                                         .bound = solve.bound,
                                         .num_nodes = solve.num_nodes};
        if (result.outcome == HLM_ILP_PROVED) {
            result.bound = solve.objective;
        }
    }
    glp_free_env(); /* leaves nothing behind, also after an error */
    hlm_arena_rewind(scratch, mark);
    return result;
}

enum hlm_status hlm_ilp_check_solver(struct hlm_err *err)
{
    (void)err;
    return HLM_OK;
}
