"""Training on sessions: one item table, cosine scores, each prefix of a session predicting what came next.

The recipe is CORE's (Hou et al., SIGIR 2022) on the form that is served: a session is a weighted mean of rows of one
table, weights by recency rank learned, and an item scores with its row at unit length. No bias, no parameter per user.
"""
