"""How a planned unit is written into the graph: between DQ and Q (``qdq``), or as integer operators (the other files).

Reads units and parameters from the plan; decides nothing.
"""
