/* libFuzzer: whatever the bytes, a frame's header is read within bounds, and one that is sound is written back the same. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>

#include "../fastq/_speedups/frames.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fq_call call;
    fq_end end;
    uint64_t promised;
    uint8_t again[FQ_CALL_HEADER > FQ_END_HEADER ? FQ_CALL_HEADER : FQ_END_HEADER];
    if (fq_read_call(data, size, &call, &promised) == FQ_SOUND) {
        fq_write_call(again, &call);
        if (promised != size || memcmp(again, data, FQ_CALL_HEADER))
            abort();
    }
    if (fq_read_end(data, size, &end, &promised) == FQ_SOUND) {
        fq_write_end(again, &end);
        if (promised != size || memcmp(again, data, FQ_END_HEADER))
            abort();
    }
    return 0;
}
