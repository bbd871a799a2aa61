/* cblas: what the CPU backend uses of OpenBLAS's header, for builds on machines without OpenBLAS.
 *
 * The products are plain loops: right, and many times slower than a BLAS, which is enough for tests
 * and for the ranks of a machine that computes on GPUs. exec/CMakeLists.txt puts this folder on the
 * include path only where no OpenBLAS is found; names, values and argument order are the
 * library's.
 */
#ifndef HLM_EXEC_CPU_PLAIN_CBLAS_H
#define HLM_EXEC_CPU_PLAIN_CBLAS_H

enum CBLAS_ORDER { CblasRowMajor = 101 };
enum CBLAS_TRANSPOSE { CblasNoTrans = 111, CblasTrans = 112 };
typedef enum CBLAS_TRANSPOSE CBLAS_TRANSPOSE; /* OpenBLAS's name */

enum { OPENBLAS_SEQUENTIAL = 0, OPENBLAS_THREAD = 1 };

/* c[m, n] = alpha * op(a) op(b) + beta * c, row-major, rows lda, ldb and ldc apart; beta 0: c is
 * not read. */
void cblas_sgemm(enum CBLAS_ORDER order, CBLAS_TRANSPOSE trans_a, CBLAS_TRANSPOSE trans_b, int m,
                 int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                 float beta, float *c, int ldc);

/* It has no state: callers need not take turns, and there is no number of threads to set. */
int openblas_get_parallel(void);
void openblas_set_num_threads(int num_threads);

/* What profiles and measurements say of it. */
const char *openblas_get_config(void);
const char *openblas_get_corename(void);

#endif
