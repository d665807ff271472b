/* Values of rows of requests, included once for every kind of processor, as `_vectors.h` is. */
#include "../_vectors.h"

/* out (rows, layer's columns) = bias + x (rows, layer's inputs) weight. */
TARGET static void NAME(layer)(const Layer *layer, const float *x, int x_step, int rows, float *out)
{
    const float *panel = layer->weight;
    for (int start = 0; start < layer->columns;) {
        int width = layer->columns - start >= PANEL ? PANEL : GROUP;
        NAME(multiply)(x, x_step, rows, layer->inputs, panel, width, width, layer->bias + start, out + start,
                       layer->columns, 0);
        panel += (size_t)width * layer->inputs;
        start += width;
    }
}

TARGET static void NAME(rectified)(float *x, size_t count)
{
    const NAME(Vector) zero = {0};
    for (size_t i = 0; i < count; i += LANES) {
        NAME(Vector) *place = (NAME(Vector) *)(x + i);
        *place = NAME(larger)(*place, zero);
    }
}

/* Mean over members of accuracies or logits: values (rows, filled actions), from the inputs in `x` (rows, inputs). */
TARGET static void NAME(forward_rows)(const Network *self, const float *x, int rows, float *work, float *values)
{
    int hidden = self->first.columns, narrow = self->second[0].columns, actions = self->head[0].columns;
    float *first = work, *second = first + (size_t)rows * hidden, *outputs = second + (size_t)rows * narrow;
    float share = 1.0f / self->members;
    memset(values, 0, (size_t)rows * actions * sizeof(float));
    NAME(layer)(&self->first, x, self->inputs, rows, first);
    NAME(rectified)(first, (size_t)rows * hidden);
    for (int member = 0; member < self->members; member++) {
        NAME(layer)(&self->second[member], first + (size_t)member * self->wide, hidden, rows, second);
        NAME(rectified)(second, (size_t)rows * narrow);
        NAME(layer)(&self->head[member], second, narrow, rows, outputs);
        for (size_t i = 0; i < (size_t)rows * actions; i += LANES) {
            NAME(Vector) value = *(const NAME(Vector) *)(outputs + i);
            if (self->accuracy)
                value = 1.0f / (NAME(exponential)(-value) + 1.0f);
            *(NAME(Vector) *)(values + i) += share * value;
        }
    }
}

#undef NAME
#undef TARGET
#undef LANES
#undef ROWS_OF_32
#undef ROWS_OF_16
