#include "model/passed_states.cpp"
