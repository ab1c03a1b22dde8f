# arrow.pyx: the Arrow C data and stream interfaces, by which columns leave without a copy.
#
# Owns      the structures that it gives away: each has its own `release`, as the specification
#           demands (arrow.apache.org/docs/format/CDataInterface.html and PyCapsuleInterface).
# Callers   Column, Columns and the iterators of scan_columns; arrow_in.pyx reads the structures
#           of others.
# Threads   schemas and arrays are released by any thread, without the GIL; a stream takes the GIL,
#           because a Python iterator is behind it.

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF
from libc.errno cimport EIO, ENOMEM
from libc.stdint cimport int32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc
from libc.string cimport strcmp, strncpy

cdef extern from * nogil:
    """
    #ifndef ARROW_C_DATA_INTERFACE
    #define ARROW_C_DATA_INTERFACE
    struct ArrowSchema {
        const char *format;
        const char *name;
        const char *metadata;
        int64_t flags;
        int64_t n_children;
        struct ArrowSchema **children;
        struct ArrowSchema *dictionary;
        void (*release)(struct ArrowSchema *);
        void *private_data;
    };
    struct ArrowArray {
        int64_t length;
        int64_t null_count;
        int64_t offset;
        int64_t n_buffers;
        int64_t n_children;
        const void **buffers;
        struct ArrowArray **children;
        struct ArrowArray *dictionary;
        void (*release)(struct ArrowArray *);
        void *private_data;
    };
    #endif
    #ifndef ARROW_C_STREAM_INTERFACE
    #define ARROW_C_STREAM_INTERFACE
    struct ArrowArrayStream {
        int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *out);
        int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *out);
        const char *(*get_last_error)(struct ArrowArrayStream *);
        void (*release)(struct ArrowArrayStream *);
        void *private_data;
    };
    #endif
    """
    cdef struct ArrowSchema:
        const char *format
        const char *name
        const char *metadata
        int64_t flags
        int64_t n_children
        ArrowSchema **children
        ArrowSchema *dictionary
        void (*release)(ArrowSchema *) noexcept nogil
        void *private_data

    cdef struct ArrowArray:
        int64_t length
        int64_t null_count
        int64_t offset
        int64_t n_buffers
        int64_t n_children
        const void **buffers
        ArrowArray **children
        ArrowArray *dictionary
        void (*release)(ArrowArray *) noexcept nogil
        void *private_data

    cdef struct ArrowArrayStream:
        int (*get_schema)(ArrowArrayStream *, ArrowSchema *out) noexcept nogil
        int (*get_next)(ArrowArrayStream *, ArrowArray *out) noexcept nogil
        const char *(*get_last_error)(ArrowArrayStream *) noexcept nogil
        void (*release)(ArrowArrayStream *) noexcept nogil
        void *private_data

cdef extern from "stdint.h":
    const int64_t INT32_MAX

cdef extern from "Python.h" nogil:
    int Py_IsInitialized()

cdef enum:
    ARROW_FLAG_NULLABLE = 2

# The three forms in which a column can be exported, by the letter of their Arrow format.
cdef enum:
    FORM_FIXED = 0x77         # 'w'
    FORM_BINARY = 0x7A        # 'z': int32 offsets, made for the export
    FORM_LARGE_BINARY = 0x5A  # 'Z': int64 offsets


# --- Schemas ---------------------------------------------------------------------------------

# What a schema or an array of a struct needs beside itself: children, and pointers to them.
cdef struct arrow_schema_private:
    char format[24]
    ArrowSchema children[2]
    ArrowSchema *child_pointers[2]

cdef struct arrow_array_private:
    column_memory *memory
    uint8_t *bitmap
    int32_t *offsets32
    const void *buffers[3]
    ArrowArray children[2]
    ArrowArray *child_pointers[2]


cdef char column_form(Column column, const char *asked) noexcept:
    """The form to export; `asked` is the format that the consumer would like, or NULL."""
    if asked != NULL and strcmp(asked, b"Z") == 0:
        return FORM_LARGE_BINARY
    if asked != NULL and strcmp(asked, b"z") == 0 and data_end(column) <= INT32_MAX:
        return FORM_BINARY
    # A width of zero is legal in Arrow, but not every consumer takes it.
    if column._offsets == NULL and 0 < column._width <= INT32_MAX:
        return FORM_FIXED
    return FORM_LARGE_BINARY


cdef const char *asked_format(object requested_schema, int child) except? NULL:
    """The format that a schema request names: its own for child -1; NULL where it says nothing."""
    if requested_schema is None:
        return NULL
    cdef ArrowSchema *asked = <ArrowSchema *>PyCapsule_GetPointer(requested_schema, b"arrow_schema")
    if child < 0:
        return asked.format
    return asked.children[child].format if asked.n_children == 2 else NULL


cdef int schema_init(ArrowSchema *out, const char *name, char form,
                     Py_ssize_t width) noexcept nogil:
    """0, or ENOMEM with `out` released."""
    memset(out, 0, sizeof(ArrowSchema))
    cdef arrow_schema_private *own = <arrow_schema_private *>calloc(1, sizeof(arrow_schema_private))
    if own == NULL:
        return ENOMEM
    if form == FORM_FIXED:
        snprintf(own.format, sizeof(own.format), b"w:%lld", <long long>width)
    else:
        own.format[0] = form
    out.format = own.format
    out.name = name
    out.flags = ARROW_FLAG_NULLABLE
    out.release = schema_release
    out.private_data = own
    return 0


cdef int columns_schema_init(ArrowSchema *out, char key_form, Py_ssize_t key_width,
                             char value_form, Py_ssize_t value_width) noexcept nogil:
    if schema_init(out, b"", FORM_LARGE_BINARY, 0) != 0:
        return ENOMEM
    cdef arrow_schema_private *own = <arrow_schema_private *>out.private_data
    strncpy(own.format, b"+s", sizeof(own.format))
    own.child_pointers[0] = &own.children[0]
    own.child_pointers[1] = &own.children[1]
    out.flags = 0
    out.n_children = 2
    out.children = own.child_pointers
    if (schema_init(&own.children[0], b"key", key_form, key_width) != 0
            or schema_init(&own.children[1], b"value", value_form, value_width) != 0):
        schema_release(out)
        return ENOMEM
    return 0


cdef void schema_release(ArrowSchema *schema) noexcept nogil:
    cdef int64_t i
    for i in range(schema.n_children):
        if schema.children[i].release != NULL:
            schema.children[i].release(schema.children[i])
    free(schema.private_data)
    schema.release = NULL


# --- Arrays ----------------------------------------------------------------------------------

cdef int column_array_init(ArrowArray *out, Column column, char form) except -1:
    """Fills `out` with a view of the column; released, or untouched, when this raises."""
    cdef const int64_t *offsets = NULL
    if form != FORM_FIXED:
        offsets = column_offsets(column)
    memset(out, 0, sizeof(ArrowArray))
    cdef arrow_array_private *own = <arrow_array_private *>calloc(1, sizeof(arrow_array_private))
    if own == NULL:
        raise MemoryError()
    lk_ref(&column._memory.refs)
    own.memory = column._memory
    out.private_data = own
    out.release = array_release
    out.length = column._count
    out.buffers = own.buffers
    out.null_count = count_absent(column)
    if out.null_count > 0:
        own.bitmap = bitmap_new(column._validity, column._count)
    if form == FORM_BINARY:
        own.offsets32 = offsets32_new(offsets, column._count)
    if ((out.null_count > 0 and own.bitmap == NULL)
            or (form == FORM_BINARY and own.offsets32 == NULL)):
        array_release(out)
        raise MemoryError()
    own.buffers[0] = own.bitmap
    if form == FORM_FIXED:
        out.n_buffers = 2
        own.buffers[1] = column._data
    else:
        out.n_buffers = 3
        own.buffers[1] = own.offsets32 if form == FORM_BINARY else <const void *>offsets
        own.buffers[2] = column._data
    return 0


cdef uint8_t *bitmap_new(const uint8_t *validity, Py_ssize_t count) noexcept nogil:
    """One bit a row, the lowest bit first; NULL without memory."""
    cdef Py_ssize_t i
    cdef uint8_t *bits = <uint8_t *>calloc((count + 7) // 8 + 1, 1)
    if bits != NULL:
        for i in range(count):
            bits[i >> 3] |= <uint8_t>((validity[i] != 0) << (i & 7))
    return bits


cdef int32_t *offsets32_new(const int64_t *offsets, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    cdef int32_t *made = <int32_t *>malloc((count + 1) * sizeof(int32_t))
    if made != NULL:
        for i in range(count + 1):
            made[i] = <int32_t>offsets[i]
    return made


cdef int columns_array_init(ArrowArray *out, Columns columns, char key_form,
                            char value_form) except -1:
    memset(out, 0, sizeof(ArrowArray))
    cdef arrow_array_private *own = <arrow_array_private *>calloc(1, sizeof(arrow_array_private))
    if own == NULL:
        raise MemoryError()
    own.child_pointers[0] = &own.children[0]
    own.child_pointers[1] = &own.children[1]
    out.private_data = own
    out.release = array_release
    out.length = columns.keys._count
    out.n_buffers = 1  # the bitmap, which a struct without absent rows leaves out
    out.buffers = own.buffers
    out.n_children = 2
    out.children = own.child_pointers
    try:
        column_array_init(&own.children[0], columns.keys, key_form)
        column_array_init(&own.children[1], columns.values, value_form)
    except BaseException:
        array_release(out)
        raise
    return 0


cdef void array_release(ArrowArray *array) noexcept nogil:
    cdef arrow_array_private *own = <arrow_array_private *>array.private_data
    cdef int64_t i
    for i in range(array.n_children):
        if array.children[i].release != NULL:
            array.children[i].release(array.children[i])
    memory_unref(own.memory)
    free(own.bitmap)
    free(own.offsets32)
    free(own)
    array.release = NULL


# --- Capsules --------------------------------------------------------------------------------

cdef object column_schema(Column column, char form):
    cdef ArrowSchema schema
    if schema_init(&schema, b"", form, column._width) != 0:
        raise MemoryError()
    return schema_capsule(&schema)


cdef object columns_schema(Columns columns, char key_form, char value_form):
    cdef ArrowSchema schema
    if columns_schema_init(&schema, key_form, columns.keys._width,
                           value_form, columns.values._width) != 0:
        raise MemoryError()
    return schema_capsule(&schema)


cdef object column_array(Column column, char form):
    cdef ArrowArray array
    column_array_init(&array, column, form)
    return array_capsule(&array)


cdef object columns_array(Columns columns, char key_form, char value_form):
    cdef ArrowArray array
    columns_array_init(&array, columns, key_form, value_form)
    return array_capsule(&array)


cdef object schema_capsule(ArrowSchema *schema):
    """A capsule into which `schema` is moved, also when this raises."""
    cdef ArrowSchema *moved = <ArrowSchema *>malloc(sizeof(ArrowSchema))
    if moved == NULL:
        schema.release(schema)
        raise MemoryError()
    moved[0] = schema[0]
    try:
        return PyCapsule_New(moved, b"arrow_schema", schema_capsule_drop)
    except BaseException:
        moved.release(moved)
        free(moved)
        raise


cdef object array_capsule(ArrowArray *array):
    cdef ArrowArray *moved = <ArrowArray *>malloc(sizeof(ArrowArray))
    if moved == NULL:
        array.release(array)
        raise MemoryError()
    moved[0] = array[0]
    try:
        return PyCapsule_New(moved, b"arrow_array", array_capsule_drop)
    except BaseException:
        moved.release(moved)
        free(moved)
        raise


cdef void schema_capsule_drop(object capsule) noexcept:
    cdef ArrowSchema *schema = <ArrowSchema *>PyCapsule_GetPointer(capsule, b"arrow_schema")
    if schema.release != NULL:  # else a consumer moved it out
        schema.release(schema)
    free(schema)


cdef void array_capsule_drop(object capsule) noexcept:
    cdef ArrowArray *array = <ArrowArray *>PyCapsule_GetPointer(capsule, b"arrow_array")
    if array.release != NULL:
        array.release(array)
    free(array)


# --- Streams ---------------------------------------------------------------------------------

cdef struct arrow_stream_private:
    PyObject *batches  # an iterator of Columns, one reference
    PyObject *error    # the bytes of the last error's text, one reference, or NULL


cdef object arrow_stream(object batches):
    """An "arrow_array_stream" capsule over an iterator of Columns.

    Every batch has large_binary `key` and `value`, whatever its own form, because the batches of
    a stream have one schema. What the iterator raises, the consumer gets as the stream's error.
    """
    cdef ArrowArrayStream *stream = <ArrowArrayStream *>calloc(1, sizeof(ArrowArrayStream))
    cdef arrow_stream_private *own = <arrow_stream_private *>calloc(1, sizeof(arrow_stream_private))
    if stream == NULL or own == NULL:
        free(stream)
        free(own)
        raise MemoryError()
    stream.get_schema = stream_schema
    stream.get_next = stream_next
    stream.get_last_error = stream_error
    stream.release = stream_release
    stream.private_data = own
    try:
        iterator = iter(batches)
        Py_INCREF(iterator)
        own.batches = <PyObject *>iterator
        return PyCapsule_New(stream, b"arrow_array_stream", stream_capsule_drop)
    except BaseException:
        stream.release(stream)
        free(stream)
        raise


cdef void stream_capsule_drop(object capsule) noexcept:
    cdef ArrowArrayStream *stream = <ArrowArrayStream *>PyCapsule_GetPointer(
        capsule, b"arrow_array_stream")
    if stream.release != NULL:
        stream.release(stream)
    free(stream)


cdef int stream_schema(ArrowArrayStream *stream, ArrowSchema *out) noexcept nogil:
    return columns_schema_init(out, FORM_LARGE_BINARY, 0, FORM_LARGE_BINARY, 0)


cdef int stream_next(ArrowArrayStream *stream, ArrowArray *out) noexcept with gil:
    cdef arrow_stream_private *own = <arrow_stream_private *>stream.private_data
    memset(out, 0, sizeof(ArrowArray))  # no `release` is how a stream says that it has ended
    try:
        columns = next(<object>own.batches)
        columns_array_init(out, <Columns?>columns, FORM_LARGE_BINARY, FORM_LARGE_BINARY)
    except StopIteration:
        return 0
    except BaseException as error:
        stream_keep_error(own, error)
        return EIO
    return 0


cdef void stream_keep_error(arrow_stream_private *own, object error) noexcept:
    cdef object text = f"{type(error).__name__}: {error}".encode("utf-8", "replace")
    stream_forget_error(own)
    Py_INCREF(text)
    own.error = <PyObject *>text


cdef void stream_forget_error(arrow_stream_private *own) noexcept:
    if own.error != NULL:
        Py_DECREF(<object>own.error)
        own.error = NULL


cdef const char *stream_error(ArrowArrayStream *stream) noexcept with gil:
    cdef arrow_stream_private *own = <arrow_stream_private *>stream.private_data
    return PyBytes_AS_STRING(<object>own.error) if own.error != NULL else NULL


cdef void stream_release(ArrowArrayStream *stream) noexcept nogil:
    # A consumer may outlive the interpreter; then there is nobody left to give a reference to.
    if Py_IsInitialized():
        stream_drop(<arrow_stream_private *>stream.private_data)
    stream.release = NULL


cdef void stream_drop(arrow_stream_private *own) noexcept with gil:
    stream_forget_error(own)
    if own.batches != NULL:
        Py_DECREF(<object>own.batches)
    free(own)
