#include "model/interventions.cpp"
