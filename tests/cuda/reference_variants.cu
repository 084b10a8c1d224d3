#include "model/reference_variants.cpp"
