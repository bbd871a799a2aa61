# Third-party libraries. Planning needs cJSON and GLPK; executing needs a BLAS, and MPI where it is found.

find_library(HLM_CJSON cjson REQUIRED)
find_path(HLM_CJSON_INCLUDE cjson/cJSON.h REQUIRED)
find_library(HLM_GLPK glpk REQUIRED)
find_path(HLM_GLPK_INCLUDE glpk.h REQUIRED)
find_package(Threads REQUIRED)

# The serial OpenBLAS: ranks are the parallelism, a thread pool in each would fight over the cores.
find_library(HLM_OPENBLAS openblas PATH_SUFFIXES openblas-serial)
find_path(HLM_OPENBLAS_INCLUDE cblas.h PATH_SUFFIXES openblas-serial x86_64-linux-gnu/openblas-serial
    aarch64-linux-gnu/openblas-serial)

find_package(MPI COMPONENTS C)
