/* queue_transport: a stream-ordered transport of one rank over tests/support/late_backend.h, whose
 * peers are imaginary: they do what this rank does, with the same data, and their messages are
 * zeros. Its operations end late, or never, or with the news that a peer has died. */
#ifndef HLM_TESTS_SUPPORT_QUEUE_TRANSPORT_H
#define HLM_TESTS_SUPPORT_QUEUE_TRANSPORT_H

#include "exec/backend.h"
#include "exec/comm/comm.h"

/* backend: a late one, which outlives the transport. */
HLM_MUST_CHECK enum hlm_status queue_transport_new(const struct hlm_strategy *strategy,
                                                   int32_t rank, struct hlm_backend *backend,
                                                   struct hlm_comm **out, struct hlm_err *err);

/* Every operation from now on holds its queue for so long; HUGE_VAL: until an abort. */
void queue_transport_delay(struct hlm_comm *comm, double seconds);

/* check() fails with this text from now on. */
void queue_transport_break(struct hlm_comm *comm, const char *text);

#endif
