/* staging: copies between pageable host memory and the device that do not block the caller.
 *
 * The runtime copies asynchronously only from and to pinned memory, so every copy goes through a
 * ring of pinned slots: uploads are copied into slots at once; what downloads bring is copied out
 * when its slot is needed again, and at the latest by deliver, which a queue's sync calls. So an
 * upload reads the host's buffer earlier and a download fills it later than the queue gets there,
 * which exec/backend.h allows: between the call and the sync the buffer belongs to the queue.
 */
#ifndef HLM_EXEC_CUDA_STAGING_H
#define HLM_EXEC_CUDA_STAGING_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "base/err.h"

enum { HLM_CUDA_STAGING_SLOTS = 8, HLM_CUDA_STAGING_BYTES = 1 << 20 };

struct hlm_cuda_staging_slot {
    cudaEvent_t done; /* of the last copy from or to the slot */
    void *host;       /* where its bytes have to go, NULL: nowhere */
    int64_t bytes;
};
struct hlm_cuda_staging {
    char *memory; /* pinned, [slots][bytes] */
    struct hlm_cuda_staging_slot slots[HLM_CUDA_STAGING_SLOTS];
    int32_t next; /* the slot that was used longest ago */
};

HLM_MUST_CHECK enum hlm_status hlm_cuda_staging_init(struct hlm_cuda_staging *staging,
                                                     struct hlm_err *err);
/* The stream must be empty. Accepts a zeroed staging. */
void hlm_cuda_staging_release(struct hlm_cuda_staging *staging);

HLM_MUST_CHECK enum hlm_status hlm_cuda_staging_upload(struct hlm_cuda_staging *staging,
                                                       cudaStream_t stream, void *device,
                                                       const void *host, int64_t bytes,
                                                       struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_cuda_staging_download(struct hlm_cuda_staging *staging,
                                                         cudaStream_t stream, void *host,
                                                         const void *device, int64_t bytes,
                                                         struct hlm_err *err);
/* Waits for all copies and brings what was downloaded to its place. */
HLM_MUST_CHECK enum hlm_status hlm_cuda_staging_deliver(struct hlm_cuda_staging *staging,
                                                        struct hlm_err *err);

#endif
