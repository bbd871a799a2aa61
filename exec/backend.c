#include "exec/backend.h"

void hlm_backend_free(struct hlm_backend *backend)
{
    if (backend != NULL) {
        backend->ops->release(backend);
    }
}
