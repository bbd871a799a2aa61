# Third-party libraries, none of which a build must have: without GLPK hlmplan does everything but the search, without
# OpenBLAS the CPU backend multiplies by plain loops, without MPI ranks are threads, and without cJSON the copy in
# third_party/cjson is compiled. So a machine with a C compiler, CMake and CUDA builds without packages and network.
option(HLM_MINIMAL "Build as on a machine that has none of these libraries" OFF)
find_package(Threads REQUIRED)

# hlm_find(<variable> <library> <header> [suffix...]): <variable> is the library and <variable>_INCLUDE the folder of
# its header; neither is set where one of both is missing.
function(hlm_find variable library header)
    if(NOT HLM_MINIMAL)
        find_library(${variable}_LIBRARY ${library} PATH_SUFFIXES ${ARGN})
        find_path(${variable}_HEADER ${header} PATH_SUFFIXES ${ARGN})
        if(${variable}_LIBRARY AND ${variable}_HEADER)
            set(${variable} ${${variable}_LIBRARY} PARENT_SCOPE)
            set(${variable}_INCLUDE ${${variable}_HEADER} PARENT_SCOPE)
        endif()
    endif()
endfunction()

hlm_find(HLM_CJSON cjson cjson/cJSON.h)
if(NOT HLM_CJSON)
    message(STATUS "cJSON not found: building the copy in third_party/cjson")
    add_library(hlm_cjson STATIC ${CMAKE_SOURCE_DIR}/third_party/cjson/cJSON.c)
    target_compile_options(hlm_cjson PRIVATE -w)
    set(HLM_CJSON hlm_cjson)
    set(HLM_CJSON_INCLUDE ${CMAKE_SOURCE_DIR}/third_party)
endif()

hlm_find(HLM_GLPK glpk glpk.h)
if(NOT HLM_GLPK)
    message(STATUS "GLPK not found: plan, explain and demo are left without a search")
endif()

# Ranks are the parallelism, so OpenBLAS runs with one thread in each; but its pthread build, not the serial one: ranks
# that are threads of one process call it at once, and the serial build (0.3.21, Debian 12) then returns wrong
# products. exec/cpu/matrix.c takes a lock where it finds a build without threads.
hlm_find(HLM_OPENBLAS openblas cblas.h openblas-pthread
    x86_64-linux-gnu/openblas-pthread aarch64-linux-gnu/openblas-pthread)
if(NOT HLM_OPENBLAS)
    message(STATUS "OpenBLAS not found: matrix products on the CPU are plain loops")
endif()

if(NOT HLM_MINIMAL)
    find_package(MPI COMPONENTS C)
endif()
