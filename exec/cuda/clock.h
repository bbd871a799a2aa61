/* clock: the device's event times as times of the host's clock.
 *
 * The runtime tells the distance of two events, in milliseconds as a float, which is exact to a
 * microsecond only for distances below about ten seconds. So an epoch is an event whose wall clock
 * (CLOCK_MONOTONIC) was read around its completion on an idle stream, a new one is made every few
 * seconds, and every recorded event keeps the epoch that was current at its record.
 */
#ifndef HLM_EXEC_CUDA_CLOCK_H
#define HLM_EXEC_CUDA_CLOCK_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "base/err.h"

struct hlm_cuda_epoch {
    cudaEvent_t event;
    double wall_s;
    int32_t references;
};

double hlm_cuda_wall_s(void);

/* With one reference. The stream must be empty. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_epoch_new(cudaStream_t stream, struct hlm_cuda_epoch **out,
                                                  struct hlm_err *err);
struct hlm_cuda_epoch *hlm_cuda_epoch_keep(struct hlm_cuda_epoch *epoch);
void hlm_cuda_epoch_drop(struct hlm_cuda_epoch *epoch); /* NULL accepted */

/* Replaces *epoch when it is older than a few seconds. The stream must be empty. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_epoch_renew(struct hlm_cuda_epoch **epoch,
                                                    cudaStream_t stream, struct hlm_err *err);

/* Wall clock of an event that has run. */
double hlm_cuda_epoch_time(const struct hlm_cuda_epoch *epoch, cudaEvent_t event);

#endif
