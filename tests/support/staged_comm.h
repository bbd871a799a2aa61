/* staged_comm: a stream-ordered transport dressed as a host transport, so that tests/support/
 * comm_body.h can check it: every call uploads, lets the transport act on a queue, downloads and
 * syncs. */
#ifndef HLM_TESTS_SUPPORT_STAGED_COMM_H
#define HLM_TESTS_SUPPORT_STAGED_COMM_H

#include "exec/backend.h"
#include "exec/comm/comm.h"

/* By the thread that uses it; config: that of `inner`, which stays the caller's and outlives it. */
HLM_MUST_CHECK enum hlm_status staged_comm_new(const struct hlm_comm_config *config,
                                               struct hlm_comm *inner, struct hlm_backend *backend,
                                               struct hlm_comm **out, struct hlm_err *err);

#endif
