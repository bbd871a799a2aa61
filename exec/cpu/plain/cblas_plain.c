/* Products by plain loops, where a build found no OpenBLAS. */
#include <cblas.h>
#include <stddef.h>

/* Rows of c are made one by one: the innermost loop runs over consecutive elements of a row of b,
 * or, when b is transposed, over consecutive elements of both operands of a dot product. */
struct product {
    int n, k;
    float alpha;
    const float *a, *b;
    ptrdiff_t a_row, a_col, ldb; /* distances in a of elements that are neighbours in op(a) */
};

static void scale_row(float *c, int n, float beta)
{
    for (int j = 0; j < n; j++) {
        c[j] = beta == 0.0f ? 0.0f : beta * c[j];
    }
}

/* c[j] += sum over p of a[i, p] b[p, j] */
static void add_rows(const struct product *product, int i, float *c)
{
    for (int p = 0; p < product->k; p++) {
        const float *b = product->b + p * product->ldb;
        const float factor = product->alpha * product->a[i * product->a_row + p * product->a_col];
        for (int j = 0; j < product->n; j++) {
            c[j] += factor * b[j];
        }
    }
}

/* c[j] += sum over p of a[i, p] b[j, p], in eight sums that a vector unit keeps side by side. */
static void add_dots(const struct product *product, int i, float *c)
{
    enum { LANES = 8 };
    for (int j = 0; j < product->n; j++) {
        const float *b = product->b + j * product->ldb;
        float sums[LANES] = {0.0f}, rest = 0.0f;
        int p = 0;
        for (; product->a_col == 1 && p + LANES <= product->k; p += LANES) {
            const float *a = product->a + i * product->a_row + p;
            for (int lane = 0; lane < LANES; lane++) {
                sums[lane] += a[lane] * b[p + lane];
            }
        }
        for (; p < product->k; p++) {
            rest += product->a[i * product->a_row + p * product->a_col] * b[p];
        }
        for (int lane = 0; lane < LANES; lane++) {
            rest += sums[lane];
        }
        c[j] += product->alpha * rest;
    }
}

void cblas_sgemm(enum CBLAS_ORDER order, CBLAS_TRANSPOSE trans_a, CBLAS_TRANSPOSE trans_b, int m,
                 int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                 float beta, float *c, int ldc)
{
    (void)order; /* row-major is all that there is */
    const struct product product = {.n = n,
                                    .k = k,
                                    .alpha = alpha,
                                    .a = a,
                                    .b = b,
                                    .a_row = trans_a == CblasTrans ? 1 : lda,
                                    .a_col = trans_a == CblasTrans ? lda : 1,
                                    .ldb = ldb};
    for (int i = 0; i < m; i++) {
        float *row = c + (ptrdiff_t)i * ldc;
        scale_row(row, n, beta);
        if (trans_b == CblasTrans) {
            add_dots(&product, i, row);
        } else {
            add_rows(&product, i, row);
        }
    }
}

int openblas_get_parallel(void)
{
    return OPENBLAS_THREAD;
}

void openblas_set_num_threads(int num_threads)
{
    (void)num_threads;
}

const char *openblas_get_config(void)
{
    return "plain loops, no BLAS in this build";
}

const char *openblas_get_corename(void)
{
    return "generic";
}
